"""A small comparison such as `headgate simulate` hands to the report."""

from typing import Any

CLASSES = ("training", "maas", "internal", "external")


def result(value_usd: float, *, partial: bool = False, busy: float = 0.9) -> dict[str, Any]:
    """One policy's figures: two hours, 100 GPUs, a ledger that adds up."""
    classes: dict[str, Any] = {
        name: {
            "gpu_hours": 40.0, "submitted": 3, "finished": 1, "waiting": 1, "wait_mean_s": 60.0,
            "wait_p90_s": 120.0, "wait_longest_s": 5400.0, "evictions": 2,
            "refused": {"patience-over": 1}, "guarantee_broken_s": 0.0,
        }
        for name in CLASSES
    }  # fmt: skip
    spent = {"starting": 1.0, "running": 38.0, "lost": 0.5, "stopping": 0.5}
    use = {"training": [60.0, 70.0], "online tokens": [20.0, 20.0], "free": [20.0, 10.0]}
    return {
        "value": value_usd,
        "value_usd": {"online": value_usd + 1000.0, "batch": 0.0, "missed deadlines": -1000.0},
        "busy_share": busy,
        "busy_share_by_pool": {"new": busy},
        "busy_share_by_hour": [busy] * 24,
        "goodput_tokens": 3e9,
        "attainment": 0.98,
        "valley_harvest": 0.7,
        "lost_work_share": 0.001,
        "guarantee_broken_s": 0.0,
        "ledger_residual": 0.0,
        "batch": {
            "orders": 4, "due": 3, "in_time": 3, "deadlines_met": 1.0, "tokens_in_time": 1e9,
            "tokens_late": 0.0,
        },
        "classes": classes,
        "services": {
            "chat": {
                "arrived_tokens": 2e9, "goodput_tokens": 1.9e9, "attainment": 0.95,
                "refused_tokens": 1e7, "batch_tokens": 1e9,
            }
        },
        "ledger_gpu_hours": {
            "classes": {name: dict(spent) for name in CLASSES},
            "idle": {"free": 30.0, "kept for a gang": 5.0, "down": 5.0},
            "fleet": 200.0,
        },
        "series": {
            "at_h": [0.5, 1.5],
            "capacity": [100.0, 100.0],
            "use": use,
            "waiting_gpus": {name: [5.0, 0.0] for name in CLASSES},
        },
        "facts": 10,
        "wishes": 5,
        "wall_s": 0.5,
        "partial": partial,
        "simulated_s": 3600.0 if partial else 7200.0,
    }  # fmt: skip


def outcome(**policies: dict[str, Any]) -> dict[str, Any]:
    return {
        "scenario": "two-hours",
        "about": "Two hours of a small pool.",
        "days": 2 / 24,
        "seed": 7,
        "demand": "generated",
        "notes": ["gangs: every job twice."],
        "pools": [{"name": "new", "generation": "B200", "gpus": 100}],
        "classes": list(CLASSES),
        "services": ["chat"],
        "worth": {
            "foundation_usd_per_gpu_h": 6.0,
            "lease_usd_per_gpu_h": {"new": 2.5},
            "source": "assumption: for the test",
        },
        "token_worth": {
            "chat": {"online": 0.9, "batch": 0.45, "missed": 0.3, "source": "list price of 2025"}
        },
        "policies": policies,
    }

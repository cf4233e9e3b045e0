"""The page Prometheus reads."""

from tests.house import chat, house, run

from headgate.gateway import metrics


def test_the_page_can_be_read_back_and_several_processes_add_up():
    async def story():
        async with house() as h:
            for _ in range(3):
                await h.ask(**chat(max_tokens=2))
            page = (await h.raw(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n")).body
            samples = metrics.read(page)
            done = (
                'headgate_requests_total{model="m",class="default",tier="default",outcome="done"}'
            )
            assert samples[done] == 3
            made = 'headgate_tokens_total{model="m",class="default",tier="default",kind="output"}'
            assert samples[made] == 6
            both = metrics.merged([samples, samples])
            assert both[done] == 6
            assert both['headgate_engine_up{engine="e0"}'] == 1
            assert metrics.read(metrics.page(both)) == both

    run(story)


def test_a_histogram_counts_each_value_under_every_bound_it_fits():
    histogram = metrics.Histogram()
    for seconds in (0.001, 0.005, 0.0051, 400.0):
        histogram.add(seconds)
    samples = {}
    histogram.samples("x", 'a="b"', samples)
    assert samples['x_bucket{a="b",le="0.005"}'] == 2
    assert samples['x_bucket{a="b",le="0.01"}'] == 3
    assert samples['x_bucket{a="b",le="+Inf"}'] == samples['x_count{a="b"}'] == 4

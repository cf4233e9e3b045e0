"""A real vLLM without a GPU: installed once for the user, started on a loopback port, recorded.

`environment` builds the virtual environment, `tiny_model` (run inside it) makes a model to serve,
`server` runs `vllm serve`, `step_recorder` (loaded by vLLM) notes what its scheduler did, and
`recording` drives load through it. `python -m tools.vllm_cpu --help` is the way in.
"""

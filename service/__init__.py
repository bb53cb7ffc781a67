"""The gateway: `POST /v1/vqa` through any adapter, in front of one vLLM."""

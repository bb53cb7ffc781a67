# Set-up and the everyday commands. `make` alone lists them.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# uv does not read pip's configuration; a machine may keep torch's CPU wheel in pip's find-links.
FIND_LINKS := $(shell $(PYTHON) -m pip config get global.find-links 2>/dev/null)
INSTALL := $(BIN)/uv pip install --quiet --python $(BIN)/python $(if $(FIND_LINKS),--find-links "$(FIND_LINKS)")
# The engine's build: `cpu` here, `gpu` with `make serve ENGINE=gpu` on a machine that has one.
ENGINE ?= cpu

.PHONY: help serve test check format adapters accuracy model bench-train bench-size bench-gateway bench-fairness bench-swaps bench-store test-s3 parity test-slow test-restart test-fuzz test-launchers test-clients test-k8s test-image bench-7b test-gpu-recipe test-size clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /make \1\t/' | expand -t 20

$(VENV)/bin/uv:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv

# CPU builds of torch are not on PyPI: first what is at hand (find-links), then PyTorch's own CPU index.
# The second argument: other options. Bytecode is compiled for who serves: a first start would do it, in a minute or so.
define install
	@echo "setting up $(VENV): $(1)"
	@began=$$(date +%s); \
	(while sleep 5 >/dev/null 2>&1; do echo "setting up $(VENV): $$(($$(date +%s) - began)) s so far"; done) & \
	telling=$$!; trap "kill $$telling" EXIT; \
	$(INSTALL) $(2) -e '.[$(1)]' 2>$(VENV)/install.log \
		|| $(INSTALL) $(2) --torch-backend $(if $(filter cpu,$(ENGINE)),cpu,auto) -e '.[$(1)]' \
		|| { cat $(VENV)/install.log; exit 1; }
	@touch $@
endef

$(VENV)/.serve-$(ENGINE): pyproject.toml | $(VENV)/bin/uv
	$(call install,$(ENGINE),--compile-bytecode)

$(VENV)/.all-$(ENGINE): pyproject.toml | $(VENV)/bin/uv
	$(call install,$(ENGINE)$(,)models$(,)dev)
	@touch $(VENV)/.serve-$(ENGINE)

, := ,

$(VENV)/.setup-$(ENGINE): pyproject.toml | $(VENV)/bin/uv
	$(call install,$(ENGINE)$(,)train)
	@touch $(VENV)/.serve-$(ENGINE)

.PHONY: setup docs test-tutorial
setup: $(VENV)/.setup-$(ENGINE) ## install service, engine and trainer into .venv, with the command `manylens`

serve: $(VENV)/.serve-$(ENGINE) ## set up if needed, then serve the embedded model on http://127.0.0.1:8000
	$(BIN)/python -m service $(ARGS)

test: $(VENV)/.all-$(ENGINE) ## set up if needed, then run the tests, the real engine included
	$(BIN)/python -m pytest $(ARGS)

check: $(VENV)/.all-$(ENGINE) ## format, lint, types, layering
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.all-$(ENGINE) ## rewrite the code in the one style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Made once: an environment set up anew changes no data.
build/data/%/done: | $(VENV)/.all-$(ENGINE)
	$(BIN)/python -m models.datasets build/data $*
	@touch $@

model: $(VENV)/.all-$(ENGINE) ## make the embedded model again from its seed (about an hour on 2 cores)
	$(BIN)/python -m models.make

adapters: build/data/shapes/done build/data/digits/done build/data/charts/done ## train the adapters again, those of the repository and `charts`
	$(BIN)/python -m models.adapters

accuracy: build/data/shapes/done build/data/digits/done ## serve INT4 and bf16 in turn and ask every held-out question over HTTP
	$(BIN)/python -m loadtest.service.accuracy $(ARGS)

bench-train: build/data/shapes/done ## train by Manylens and by TRL in turn: speed, memory, held-out loss
	$(INSTALL) -e '.[bench]'
	$(BIN)/python -m loadtest.trainer.training $(ARGS)

bench-size: $(VENV)/.all-$(ENGINE) ## what training LLaVA-1.5 7B and 13B takes in memory, by part, without its weights
	$(BIN)/python -m loadtest.trainer.memory

.PHONY: bench-plan
bench-plan: $(VENV)/.all-$(ENGINE) ## memory as --plan says it beside the measured peak, at small and at the 7B's width, on a CPU
	$(BIN)/python -m loadtest.trainer.planned $(ARGS)

.PHONY: bench-rows
bench-rows: $(VENV)/.all-$(ENGINE) ## 600,000 rows over 150,000 pictures: memory, seconds and disk of a training up to its first step
	$(BIN)/python -m loadtest.trainer.rows $(ARGS)

.PHONY: bench-curation
bench-curation: $(VENV)/.all-$(ENGINE) ## adapters trained on a bad set as it is, and on what the curation commands leave of it
	$(BIN)/python -m loadtest.trainer.curation $(ARGS)

.PHONY: bench-data
bench-data: $(VENV)/.all-$(ENGINE) ## 600,000 rows over 150,000 pictures: memory and rows a second of check, filter, dedupe, split, report, import, score
	$(BIN)/python -m loadtest.trainer.data $(ARGS)

.PHONY: bench
bench: $(VENV)/.all-$(ENGINE) ## side by side with stock vLLM, a server written by hand and the engine in process (about 20 minutes, alone)
	$(BIN)/python -m loadtest.bench $(ARGS)

.PHONY: bench-load bench-curves bench-tools bench-flame explore fleet
bench-load: $(VENV)/.all-$(ENGINE) ## every scenario at random arrivals: throughput, latencies, errors, CPU, memory, goodput
	$(BIN)/python -m loadtest.load $(ARGS)

bench-curves: $(VENV)/.all-$(ENGINE) ## throughput and latency as askers, adapters, pictures, answers and questions grow
	$(BIN)/python -m loadtest.load.curves $(ARGS)

fleet: $(VENV)/.all-$(ENGINE) ## a fleet on paper: routing by adapter against round robin, and what a slow start costs
	$(BIN)/python -m loadtest.load.fleet $(ARGS)

# Locust patches the standard library: an environment of its own.
build/locust/done: pyproject.toml | $(VENV)/bin/uv
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python build/locust/venv
	$(BIN)/uv pip install --quiet --python build/locust/venv/bin/python --group locust
	@touch $@

build/py-spy/bin/py-spy: | $(VENV)/bin/uv
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python build/py-spy
	$(BIN)/uv pip install --quiet --python build/py-spy/bin/python "py-spy>=0.4"

bench-flame: $(VENV)/.all-$(ENGINE) build/py-spy/bin/py-spy ## build/gateway.svg: where the gateway's own time goes (py-spy)
	$(BIN)/python -m loadtest.bench.flame $(ARGS)

build/aiperf/done: pyproject.toml | $(VENV)/bin/uv
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python build/aiperf/venv
	$(BIN)/uv pip install --quiet --python build/aiperf/venv/bin/python --group aiperf
	@touch $@

bench-tools: $(VENV)/.all-$(ENGINE) build/aiperf/done ## the OpenAI face asked by `vllm bench serve` and by NVIDIA's AIPerf
	$(BIN)/python -m loadtest.load.tools $(ARGS)

explore: build/locust/done ## Locust's page at http://127.0.0.1:8089, to ask `make serve` by the scenarios by hand
	PYTHONPATH=. build/locust/venv/bin/locust -f loadtest/load/locustfile.py --host http://127.0.0.1:8000 $(ARGS)

bench-gateway: $(VENV)/.all-$(ENGINE) ## the gateway's own time for a request, on an engine that takes none, beside a constant answer
	$(BIN)/python -m loadtest.bench --case '["gateway"]' $(ARGS)

.PHONY: bench-hostile
bench-hostile: $(VENV)/.all-$(ENGINE) ## bodies made to hurt, on the real engine: another client, the probe, memory
	$(BIN)/python -m loadtest.service.hostile $(ARGS)

bench-fairness: $(VENV)/.all-$(ENGINE) ## what one adapter at ten times its share costs the others, over HTTP
	$(BIN)/python -m loadtest.service.fairness $(ARGS)

bench-7b: $(VENV)/.all-$(ENGINE) ## a 7B of random weights in INT4 with two adapters, published, served and asked: memory and seconds
	$(BIN)/python -m loadtest.service.size $(ARGS)

.PHONY: bench-quantize
bench-quantize: $(VENV)/.all-$(ENGINE) ## GPTQ by trainer quantize at the 7B's width: seconds of a layer, and the largest memory
	$(BIN)/python -m loadtest.trainer.packed $(ARGS)

.PHONY: bench-mixture test-mixture
bench-mixture: build/data/shapes/done ## six ways to learn from pictures and from text: accuracy of each, time, memory, size, latency
	$(BIN)/python -m loadtest.trainer.mixture $(ARGS)

test-mixture: $(VENV)/.all-$(ENGINE) ## a mixture of modalities on vLLM: 500 answers are those in process, a canary over a plain LoRA
	$(BIN)/python -m pytest -m slow tests/test_mixture_on_vllm.py $(ARGS)

parity: build/data/shapes/done ## 12-megapixel JPEGs decoded at a part of their size and in full: are the answers the same?
	$(BIN)/python -m loadtest.images.parity $(ARGS)

bench-swaps: $(VENV)/.all-$(ENGINE) ## 24 adapters in 4 slots, swapped and deleted under 10,000 requests
	$(BIN)/python -m loadtest.store.swaps $(ARGS)

bench-store: $(VENV)/.all-$(ENGINE) ## ten thousand adapters in the store beside two: start, memory, polls, listing, a store that goes
	$(INSTALL) -e '.[s3]'
	$(BIN)/python -m loadtest.store.bigstore $(ARGS)

test-s3: $(VENV)/.all-$(ENGINE) ## a store on a real S3 API (moto's server)
	$(INSTALL) -e '.[s3]'
	$(BIN)/python -m pytest -m slow tests/test_adapters_on_s3.py $(ARGS)

.PHONY: test-loop
test-loop: build/data/digits/done ## examples/loop: a better canary promoted and a worse one rolled back, on the real engine
	$(BIN)/python -m pytest -m slow -s tests/test_loop.py $(ARGS)

.PHONY: bench-dpo
bench-dpo: $(VENV)/.all-$(ENGINE) ## DPO beside TRL's DPOTrainer on the same pairs, one and five a picture: pairs a second, memory
	$(INSTALL) -e '.[bench]'
	$(BIN)/python -m loadtest.trainer.preference $(ARGS)

.PHONY: bench-habit
bench-habit: $(VENV)/.all-$(ENGINE) ## a habit that SFT keeps, corrected by DPO from pairs and by SFT from the right answers
	$(BIN)/python -m loadtest.trainer.habit $(ARGS)

.PHONY: test-trl
test-trl: $(VENV)/.all-$(ENGINE) ## loss and gradient from pairs of answers beside TRL's DPOTrainer (installs TRL)
	$(INSTALL) -e '.[bench]'
	$(BIN)/python -m pytest tests/trainer/training/test_preference_beside_trl.py $(ARGS)

test-slow: $(VENV)/.all-$(ENGINE) ## trainings killed at random moments, and by two processes; test-restart as well
	$(BIN)/python -m pytest -m slow --ignore-glob '*_fuzz.py' --ignore-glob '*_on_s3.py' --ignore tests/test_clients.py --ignore tests/test_lmms_eval.py --ignore tests/test_launchers.py --ignore tests/test_jobset.py --ignore tests/test_page_browser.py --ignore tests/test_loop.py --ignore tests/test_wheel.py --ignore tests/test_docs.py $(ARGS)

test-launchers: $(VENV)/.all-$(ENGINE) ## two processes by DDP, FSDP2, ZeRO-2 and ZeRO-3 learn what one learns, on CPUs (installs DeepSpeed)
	DS_BUILD_OPS=0 $(INSTALL) -e '.[zero]'
	$(BIN)/python -m pytest -m slow tests/test_launchers.py tests/test_jobset.py $(ARGS)

test-fuzz: $(VENV)/.all-$(ENGINE) ## 100,000 hostile images, and every route by its OpenAPI document (ARGS=--inputs=3000: shorter)
	$(BIN)/python -m pytest -m slow tests/test_images_fuzz.py tests/test_openapi_fuzz.py $(ARGS)

bench-start: $(VENV)/.all-$(ENGINE) ## a cold start beside stock `vllm serve`'s, in turn, and a killed engine's way back
	$(BIN)/python -m loadtest.service.start $(ARGS)

test-start: $(VENV)/.all-$(ENGINE) ## vLLM started for real: SIGTERM at any moment, kill -9, every line as JSON
	$(BIN)/python -m pytest -m slow tests/test_start_on_vllm.py $(ARGS)

test-drains: $(VENV)/.all-$(ENGINE) ## 20 drains under load: by themselves, behind HAProxy, behind nginx (where they are installed)
	$(BIN)/python -m pytest -m slow -s tests/test_drains.py $(ARGS)

.PHONY: test-faults test-replicas
test-faults: $(VENV)/.all-$(ENGINE) ## what breaks, on the real engine, each case held to its bounds: build/faults.json (root, haproxy, faketime)
	$(BIN)/python -m pytest -m slow -s tests/test_faults.py $(ARGS)

test-replicas: $(VENV)/.all-$(ENGINE) ## two and three replicas over one store, behind HAProxy and nginx (where they are installed)
	$(BIN)/python -m pytest -m slow -s tests/test_replicas.py tests/test_places.py $(ARGS)

test-restart: $(VENV)/.all-$(ENGINE) ## vLLM's process killed and stopped under load, and started again each time
	$(BIN)/python -m pytest -m slow tests/test_engine_supervised_on_vllm.py $(ARGS)

build/lmms-eval/done: pyproject.toml | $(VENV)/bin/uv
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python build/lmms-eval/venv
	$(BIN)/uv pip install --quiet --python build/lmms-eval/venv/bin/python --group lmms-eval
	@touch $@

.PHONY: test-lmms-eval
test-lmms-eval: $(VENV)/.all-$(ENGINE) build/lmms-eval/done build/data/shapes/done build/data/digits/done ## lmms-eval asks the real engine over HTTP; its scores beside the trainer's on the same rows
	$(BIN)/python -m pytest -m slow -s tests/test_lmms_eval.py $(ARGS)

# Other people's clients have an environment of their own: what they need does not go with vLLM.
build/clients/done: pyproject.toml tests/clients/package.json | $(VENV)/.all-$(ENGINE)
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python build/clients/venv
	$(BIN)/uv pip install --quiet --python build/clients/venv/bin/python --group clients
	cp tests/clients/package.json build/clients/
	npm install --prefix build/clients --no-audit --no-fund --loglevel=error
	@touch $@

test-clients: build/clients/done ## openai, LiteLLM, LangChain, llama-index, instructor, pydantic-ai and others ask the real engine (needs npm)
	$(BIN)/python -m pytest -m slow tests/test_clients.py $(ARGS)

build/ray/done: pyproject.toml | $(VENV)/.all-$(ENGINE)
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python build/ray/venv
	$(BIN)/uv pip install --quiet --python build/ray/venv/bin/python --group ray
	@touch $@

.PHONY: test-ray
test-ray: build/ray/done ## Ray Serve on this machine with one replica of the service on the real engine
	$(BIN)/python -m pytest -m slow -s tests/test_rayserve.py $(ARGS)

.PHONY: test-alerts
test-alerts: $(VENV)/.all-$(ENGINE) ## every fault fires its alert on the real service and is told as over (needs prometheus, alertmanager, root)
	$(BIN)/python -m pytest -m slow -s tests/test_alerts_live.py $(ARGS)

# What it needs does not go with what the trainer needs: an environment of its own.
build/checkov/bin/checkov: | $(VENV)/bin/uv
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python build/checkov
	$(BIN)/uv pip install --quiet --python build/checkov/bin/python checkov==3.3.30

# axe-core, which judges accessibility, from npm; Playwright, which drives Debian's Chromium, in the environment.
build/page/done: pyproject.toml tests/page/package.json | $(VENV)/.all-$(ENGINE)
	$(INSTALL) --group page
	mkdir -p build/page
	cp tests/page/package.json build/page/
	npm install --prefix build/page --no-audit --no-fund --loglevel=error
	@touch $@

test-tutorial: $(VENV)/.all-$(ENGINE) ## the tutorial's blocks as they stand: pictures, a training, an answer, a correction
	$(BIN)/python -m pytest -m slow tests/test_docs.py $(ARGS)

build/docs/done: pyproject.toml | $(VENV)/bin/uv
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python build/docs/venv
	$(BIN)/uv pip install --quiet --python build/docs/venv/bin/python --group docs
	@touch $@

docs: build/docs/done ## build the documents into build/site; fails at a link that leads nowhere
	NO_MKDOCS_2_WARNING=1 build/docs/venv/bin/mkdocs build --strict --quiet $(ARGS)

.PHONY: test-wheel
test-wheel: $(VENV)/.all-$(ENGINE) ## the wheel installed in a fresh environment serves, answers, and trains an adapter that it then serves
	$(BIN)/python -m pytest -m slow tests/test_wheel.py $(ARGS)

.PHONY: test-page
test-page: build/page/done ## the page at / in Chromium, judged by axe-core (needs npm; as root installs chromium where there is none)
	@test -n "$(CHROMIUM)" || which chromium chromium-browser google-chrome >/dev/null || apt-get install -y -qq chromium
	$(BIN)/python -m pytest -m slow tests/test_page_browser.py $(ARGS)

.PHONY: pictures
pictures: build/page/done ## take the pictures of the page that docs/how-to/page.md shows again (needs chromium)
	$(BIN)/python -m docs.pictures $(ARGS)

test-k8s: $(VENV)/.all-$(ENGINE) build/checkov/bin/checkov ## every overlay against Kubernetes 1.30 to 1.37, CRDS=a folder of CustomResourceDefinitions and checkov; needs kubectl
	MANYLENS_CRDS=$(CRDS) MANYLENS_CHECKOV=build/checkov/bin/checkov $(BIN)/python -m pytest -m slow tests/test_k8s.py $(ARGS)

test-image: $(VENV)/.all-$(ENGINE) ## build the container image and ask it, as strictly confined as in Kubernetes; needs buildah and podman
	$(BIN)/python -m pytest -m slow -s tests/test_image.py $(ARGS)

test-gpu-recipe: $(VENV)/.all-$(ENGINE) ## loadtest/gpu, which needs a GPU to say anything, tried at a small shape
	$(BIN)/python -m pytest -m slow tests/test_loadtest_gpu.py $(ARGS)

test-size: $(VENV)/.all-$(ENGINE) ## two layers of the 7B's width: served with two adapters and trained, as transformers does both
	$(BIN)/python -m pytest -m slow tests/test_size_on_vllm.py tests/trainer/model/test_width.py $(ARGS)

clean: ## remove what was set up and built
	rm -rf $(VENV) build

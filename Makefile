# Every target needs Python 3.11 or newer, make and a package index, and creates the environment it needs.
PYTHON ?= python3
BIN := .venv/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test check test-lowest lint tutorials docs dist clean

demo: .venv/.users
	$(BIN)/python examples/demo.py

# Three processes with a thread each: most tests are too small for more threads, and many wait, for servers and other processes.
test: .venv/.developers lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

# Lint, and the tests of files that need no training, no server and no other process.
FAST := tests/covariates tests/cube tests/grid tests/points tests/sensors tests/spec $(patsubst %,tests/%.py,assets/test_read io/test_codes \
	io/test_layout io/test_plan mapping/test_ensemble mapping/test_predict model/test_calibration model/test_files model/test_inference \
	model/test_network model/test_query stac/test_arguments stac/test_dates test_accessor test_environment test_errors test_import test_lowest \
	test_metrics test_packages test_paths estimators/test_baselines training/test_windows)
check: .venv/.developers lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile $(FAST)

# What users run, on the lowest versions that pyproject.toml declares.
LOWEST := tests/cube tests/covariates/test_relief.py tests/io/test_codes.py tests/io/test_geotiff.py tests/grid/test_geozarr.py tests/io/test_layout.py tests/io/test_storable.py \
	tests/grid/test_geobox.py tests/io/test_check.py tests/records tests/points/test_read.py tests/stac/test_item_table.py tests/stac/test_open.py tests/test_lowest.py \
	tests/test_pipeline.py tests/estimators/test_baselines.py tests/estimators/test_files.py \
	tests/evaluation/test_cross_validate.py::test_every_point_is_predicted_once_by_each_model_and_seed
test-lowest: .venv-lowest/.installed
	OMP_NUM_THREADS=1 .venv-lowest/bin/python -m pytest -q -n 2 --dist loadfile -p no:cacheprovider $(LOWEST)

lint: .venv/.developers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# All tutorials anew, two at a time with one thread each; `make docs` shows the outputs, and executes those that changed since.
tutorials: .venv/.developers
	$(BIN)/python docs/_ext/tutorials.py

docs: .venv/.developers
	$(BIN)/sphinx-build -q -W --keep-going -b html docs docs/_build/html

# The distribution: built, checked, and the wheel imported where nothing else of the project is. Its environment has the wheel; check_dist.py puts
# the packages of .venv behind it on the path, which does not bring the editable installation along.
dist: .venv/.users
	rm -rf dist .venv-dist
	$(PYTHON) -m venv .venv-dist
	.venv-dist/bin/python -m pip install -q "pip>=25.1"
	.venv-dist/bin/python -m pip install -q --group dist
	.venv-dist/bin/python -m build -q .
	.venv-dist/bin/python -m twine check --strict dist/*
	.venv-dist/bin/python -m pip install -q --no-deps dist/*.whl
	cd dist && ../.venv-dist/bin/python ../tests/check_dist.py $(CURDIR)

# pip 25.1 brought dependency groups.
.venv/.pip:
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q "pip>=25.1"
	touch $@

# torch and torchvision go first and together: timm imports torchvision, and the two must match.
.venv/.users: .venv/.pip pyproject.toml
	$(BIN)/python -m pip install -q torch torchvision timm
	$(BIN)/python -m pip install -q -e ".[all]" --group demo
	touch $@

# What is there stays as it is: pip would otherwise bring versions that do not go with it, or look for them for minutes.
.venv/.developers: .venv/.users
	$(BIN)/python -m pip freeze --exclude-editable > .venv/.versions
	$(BIN)/python -m pip install -q -c .venv/.versions --group dev
	touch $@

# torch is the one of .venv, linked rather than installed once more (5 GB); pip installs it where links cannot be made.
# The test tools come last, each to go with what is there.
TORCH := torch torch-* torchgen functorch torchvision* triton* nvidia* cuda*
.venv-lowest/.installed: .venv/.users pyproject.toml tests/lowest.txt
	rm -rf .venv-lowest
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python -m pip install -q "pip>=25.1"
	-site=$$(cd .venv && echo lib/python3*/site-packages) && cd .venv/$$site && cp -al $(TORCH) $(CURDIR)/.venv-lowest/$$site/
	.venv-lowest/bin/python -m pip install -q -c tests/lowest.txt torch torchvision timm -e ".[all,icechunk]"
	.venv-lowest/bin/python -m pip freeze --exclude-editable > .venv-lowest/.versions
	.venv-lowest/bin/python -m pip install -q -c .venv-lowest/.versions --group test
	touch $@

clean:
	rm -rf .venv .venv-lowest .venv-dist dist demo docs/_build docs/_generated docs/reference/api

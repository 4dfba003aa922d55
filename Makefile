# Two commands for a fresh machine: `make demo` and `make test`. Each does all of its set-up.
SHELL := /bin/bash
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export PYTHONWARNINGS := ignore

.PHONY: demo test lint setup setup-dev test-slow test-gpu test-vllm test-browser test-slurm

demo: setup
	launch/pipeline.sh recipes/tiny_cpu.yaml

test: setup-dev lint
	pytest -n 2 -m "not gpu and not vllm and not slow and not demo and not slurm and not browser"

lint: setup-dev
	ruff check . && ruff format --check . && mypy

test-slow: setup-dev
	pytest -m slow

test-gpu: setup-dev
	pytest -m gpu

test-vllm: setup-dev
	launch/setup_vllm.sh
	pytest -m vllm

test-browser:
	@launch/setup.sh browser
	pytest -m browser

# A Slurm of two nodes on this machine, as root; the packages are Debian's.
test-slurm:
	@launch/setup.sh slurm
	pytest -m slurm

setup:
	@launch/setup.sh

setup-dev:
	@launch/setup.sh dev

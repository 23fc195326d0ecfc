#!/bin/sh
# Resolves pyproject.toml's ranges, with every extra, in a fresh environment and writes what came out.
set -eu
python=${1:-python3}
home=$(mktemp -d)
trap 'rm -rf "$home"' EXIT
"$python" -m venv "$home/venv"
"$home/venv/bin/pip" install --quiet --upgrade pip
"$home/venv/bin/pip" install --quiet torch==2.13.0
EVOMERGE_SKIP_UI=1 "$home/venv/bin/pip" install --quiet ".[zoo,harness,nevergrad,bayes,fast,dev]"
{
  echo "# Made by \`make lock\`; pyproject.toml holds the ranges."
  # Left out: ourselves, the CPU build's local version, and what torch's CUDA build brings on its own.
  "$home/venv/bin/pip" freeze | grep -viE '^(evomerge|nvidia-|triton)' | sed -E 's/^(torch==[0-9.]+)\+cpu$/\1/'
} > requirements.lock

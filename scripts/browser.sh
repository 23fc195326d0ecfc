#!/bin/sh
# Chromium for the dashboard's tests: taken as it is, else installed from Debian's packages.
set -u
for name in chromium chromium-browser google-chrome; do
  command -v "$name" >/dev/null 2>&1 && exit 0
done
echo "Chromium is missing; installing Debian's package"
if command -v apt-get >/dev/null 2>&1 && [ "$(id -u)" = 0 ]; then
  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium >/dev/null && exit 0
fi
echo "Chromium could not be installed here. Install it yourself (Debian: sudo apt-get install chromium), or run the" >&2
echo "tests without a browser: .venv/bin/pytest -m 'not slow and not browser'" >&2
exit 1

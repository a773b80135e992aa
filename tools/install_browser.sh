#!/bin/sh
# Installs Debian's Chromium for the tests that drive a real browser, where it is missing and may be installed.
set -eu
if ! command -v apt-get >/dev/null 2>&1; then
  echo "The browser tests need Chromium; install it with your system's package manager." >&2
  exit 1
fi
run=""
if [ "$(id -u)" -ne 0 ]; then
  command -v sudo >/dev/null 2>&1 || { echo "The browser tests need Chromium: apt-get install chromium" >&2; exit 1; }
  run="sudo"
fi
$run apt-get update -qq
$run env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium fonts-noto-cjk

#!/usr/bin/env bash
# Builds the native module for 64-bit ARM and runs the tests of kernels and training there, under QEMU. Called by `make test-arm`.
#
#     tools/test_on_arm.sh [pytest arguments]       by default all that computes numbers: native, ops, runtime, training, zoo
#
# Needs Debian or Ubuntu with g++-aarch64-linux-gnu, qemu-user and the environment of `make install`. Python for ARM comes
# as Debian packages into build/arm and is never installed; nothing here needs root.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD/build/arm sysroot=$PWD/build/arm/sysroot bin=$PWD/.venv/bin
for command in aarch64-linux-gnu-g++ qemu-aarch64 apt-get dpkg; do
  command -v $command >/dev/null || { echo "$command is missing; try: apt install g++-aarch64-linux-gnu qemu-user"; exit 1; }
done

if [ ! -e "$root/.sysroot" ]; then
  apt=$root/apt
  mkdir -p "$apt/state/lists/partial" "$apt/cache/archives/partial"
  : >"$apt/status"
  # apt with a state of its own, in which nothing is installed: it fetches Python with all that it depends on.
  own=(-o "Dir::State=$apt/state" -o "Dir::Cache=$apt/cache" -o "Dir::State::status=$apt/status" -o Debug::NoLocking=true
    -o APT::Architecture=arm64 -o APT::Architectures::=arm64 -o APT::Install-Recommends=false)
  apt-get "${own[@]}" update -qq
  apt-get "${own[@]}" install --download-only -y -qq python3-minimal libpython3-stdlib libpython3-dev libstdc++6
  rm -rf "$sysroot"
  mkdir -p "$sysroot"
  for package in "$apt"/cache/archives/*.deb; do dpkg -x "$package" "$sysroot"; done
  touch "$root/.sysroot"
fi

# `-cpu max` has the dot products that neon_dot is for; all instruction sets of ARM are then tested in one run.
cat >"$root/python" <<END
#!/bin/sh
export PYTHONPATH="$root/site:$root/packages" PYTHONDONTWRITEBYTECODE=1
exec qemu-aarch64 -cpu max -L "$sysroot" "$sysroot/usr/bin/python3" "\$@"
END
chmod +x "$root/python"

if [ ! -e "$root/.packages" ]; then
  version=$("$root/python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
  rm -rf "$root/packages"
  "$bin/python" -m pip install --quiet --target "$root/packages" --only-binary=:all: --python-version "$version" \
    --platform manylinux2014_aarch64 --platform manylinux_2_28_aarch64 numpy safetensors nanobind pytest hypothesis
  touch "$root/.packages"
fi

[ -e "$root/native/build.ninja" ] || "$bin/cmake" -S . -B "$root/native" -G Ninja -DCMAKE_MAKE_PROGRAM="$bin/ninja" \
  -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++ \
  -DCMAKE_CXX_FLAGS="-idirafter $sysroot/usr/include" -DPython_EXECUTABLE="$root/python"
"$bin/cmake" --build "$root/native"

mkdir -p "$root/site"
cp -r src/homespun "$root/site/"
rm -f "$root"/site/homespun/_native*.so
cp "$root"/native/native/_native*.so "$root/site/homespun/"
if [ $# -eq 0 ]; then
  # An emulated Python can't start another one, which is what the deselected test is about.
  set -- -q --deselect tests/runtime/test_calibration.py::test_a_saved_model_predicts_the_same_in_another_process \
    tests/native tests/ops tests/runtime tests/zoo/test_reference.py tests/training/test_goldens.py
fi
"$root/python" -m pytest -p no:cacheprovider "$@"

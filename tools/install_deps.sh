#!/usr/bin/env bash
# Installs what building and testing needs and this machine lacks, from the distribution's own
# packages (Debian 12 and 13, Ubuntu 24.04). Where nothing is missing it touches no network.
# The CUDA Toolkit is never installed: the build uses it where it is found.
set -euo pipefail

packages=(
  g++ cmake ninja-build make pkg-config git ca-certificates ccache
  nlohmann-json3-dev libcli11-dev libpcre2-dev libsentencepiece-dev doctest-dev
)

if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
  echo "install_deps.sh: needs apt-get (Debian 12 or 13, Ubuntu 24.04); elsewhere install the" \
    "equivalents of: ${packages[*]}" >&2
  exit 1
fi

# A package that another one replaces (pkg-config by pkgconf) counts as installed under its name.
missing=()
for package in "${packages[@]}"; do
  status=$(dpkg-query -W -f '${db:Status-Status}\n' "$package" 2>/dev/null || true)
  grep -qx installed <<<"$status" || missing+=("$package")
done
[ ${#missing[@]} -gt 0 ] || exit 0

as_root=()
if [ "$(id -u)" -ne 0 ]; then
  if ! command -v sudo >/dev/null; then
    echo "install_deps.sh: missing packages: ${missing[*]}. Run this as root, or install sudo." >&2
    exit 1
  fi
  as_root=(sudo)
fi
echo "Installing: ${missing[*]}"
"${as_root[@]}" apt-get update -qq
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
  apt-get install -y -qq --no-install-recommends "${missing[@]}"

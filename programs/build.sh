#!/bin/sh
# Builds the XDP programs of this folder, of bench/ (programs that only benchmarks run) and of path/
# (programs of scenes and of benchmarks of the data path).
#
#   ./build.sh              build all into NAME.bpf.o
#   ./build.sh NAME...      build these
#   ./build.sh --check      build all elsewhere and compare with the objects that are here
#   ./build.sh --list       one line per program, section and number of instructions
#
# Needs clang, llvm-strip and llvm-readelf of one LLVM version (LLVM=19 unless told
# otherwise) and the Debian packages libbpf-dev and linux-libc-dev.
set -eu

cd "$(dirname "$0")"
llvm=${LLVM:-19}

# Most programs are built for the instruction set that every kernel since 5.1 runs (v3). These
# use what came with v4 (byte swaps, sign extension, long jumps), which needs 6.6.
cpu_of() {
	case $1 in
	jumbo | vlan) echo v4 ;;
	*) echo v3 ;;
	esac
}

# <linux/types.h> includes <asm/types.h>, which Debian keeps in the architecture's folder.
asm_headers() {
	for dir in /usr/include/*-linux-gnu; do
		if [ -e "$dir/asm/types.h" ]; then
			echo "$dir"
			return
		fi
	done
	echo "build.sh: no <asm/types.h>: install linux-libc-dev" >&2
	return 1
}

# build NAME OUT: BTF stays (maps, CO-RE and line numbers are in it), DWARF goes. File names in
# BTF are relative, so the object does not depend on where the repository lies. Headers in a frame
# are packed behind each other, and taking their address is what these programs do.
build() {
	"clang-$llvm" -O2 -g -target bpf -mcpu="$(cpu_of "$1")" -Wall -Werror -Wno-address-of-packed-member \
		-isystem "$asm" -ffile-prefix-map="$PWD"=. \
		-c "$1.c" -o "$2"
	"llvm-strip-$llvm" -g "$2"
}

names() {
	for source in *.c bench/*.c path/*.c; do
		echo "${source%.c}"
	done
}

# The bytes of every section that says what the program is: code, data, map definitions, BTF and
# relocations. Symbol and string tables may differ in order and are left out.
contents() {
	"llvm-readelf-$llvm" -SW "$1" |
		sed -nE 's/^ *\[ *[0-9]+\] ([^ ]+) +(PROGBITS|NOBITS|REL) .*/\1/p' |
		while read -r section; do
			echo "== $section"
			"llvm-readelf-$llvm" -x "$section" "$1" | sed 1,2d
		done
}

check() {
	tmp=$(mktemp -d)
	trap 'rm -rf "$tmp"' EXIT
	failed=0
	for name in $(names); do
		if [ ! -e "$name.bpf.o" ]; then
			echo "$name: no object: run ./build.sh $name"
			failed=1
			continue
		fi
		mkdir -p "$tmp/bench" "$tmp/path"
		build "$name" "$tmp/$name.bpf.o"
		contents "$name.bpf.o" >"$tmp/committed"
		contents "$tmp/$name.bpf.o" >"$tmp/rebuilt"
		if cmp -s "$name.bpf.o" "$tmp/$name.bpf.o"; then
			echo "$name: same bytes"
		elif cmp -s "$tmp/committed" "$tmp/rebuilt"; then
			echo "$name: same code, data, maps and BTF"
		else
			echo "$name: DIFFERS from its source:"
			diff "$tmp/committed" "$tmp/rebuilt" | head -20 || true
			failed=1
		fi
	done
	for object in *.bpf.o bench/*.bpf.o path/*.bpf.o; do
		if [ ! -e "${object%.bpf.o}.c" ]; then
			echo "$object: has no source"
			failed=1
		fi
	done
	return $failed
}

# Instructions are counted in slots of 8 bytes: a 64-bit immediate load takes two.
list() {
	for object in *.bpf.o bench/*.bpf.o path/*.bpf.o; do
		"llvm-readelf-$llvm" -SsW "$object" | awk -v file="${object%.bpf.o}" '
			/^ *\[ *[0-9]+\]/ {
				line = $0; sub(/^ *\[ */, "", line); sub(/\]/, "", line)
				split(line, f, " "); section[f[1]] = f[2]
			}
			$4 == "FUNC" {
				printf "%-16s %-14s %-20s %s %5d\n", file, section[$7], $8,
					($5 == "GLOBAL" ? "global" : "static"), $3 / 8
			}'
	done
}

asm=$(asm_headers)
case ${1:-} in
--check) check ;;
--list) list ;;
-*) echo "usage: build.sh [--check | --list | NAME...]" >&2; exit 2 ;;
"") for name in $(names); do build "$name" "$name.bpf.o"; done ;;
*) for name in "$@"; do build "$name" "$name.bpf.o"; done ;;
esac

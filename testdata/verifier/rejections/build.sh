#!/bin/sh
# Builds the verifier's test programs: each NAME.c here into NAME.o.
#
#   ./build.sh              build all
#   ./build.sh NAME...      build these
#   ./build.sh --check      build all elsewhere and compare with the objects that are here
#
# Needs clang, llvm-strip and llvm-readelf of one LLVM version (LLVM=19 unless told otherwise) and the
# Debian packages libbpf-dev and linux-libc-dev.
set -eu

cd "$(dirname "$0")"
llvm=${LLVM:-19}

for dir in /usr/include/*-linux-gnu; do
	[ -e "$dir/asm/types.h" ] && asm=$dir
done

build() {
	"clang-$llvm" -O2 -g -target bpf -mcpu=v3 -Wall -Werror -isystem "$asm" \
		-ffile-prefix-map="$PWD"=. -c "$1.c" -o "$2"
	"llvm-strip-$llvm" -g "$2"
}

# The bytes of every section that says what the program is; symbol and string tables may differ in order.
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
	for source in *.c; do
		name=${source%.c}
		build "$name" "$tmp/$name.o"
		cmp -s "$name.o" "$tmp/$name.o" && continue
		contents "$name.o" >"$tmp/committed"
		contents "$tmp/$name.o" >"$tmp/rebuilt"
		if ! cmp -s "$tmp/committed" "$tmp/rebuilt"; then
			echo "$name: DIFFERS from its source: run ./build.sh $name"
			failed=1
		fi
	done
	for object in *.o; do
		if [ ! -e "${object%.o}.c" ]; then
			echo "$object: has no source"
			failed=1
		fi
	done
	return $failed
}

case ${1:-} in
--check) check ;;
-*) echo "usage: build.sh [--check | NAME...]" >&2; exit 2 ;;
"") for source in *.c; do build "${source%.c}" "${source%.c}.o"; done ;;
*) for name in "$@"; do build "$name" "$name.o"; done ;;
esac

#!/bin/sh
# Builds the loader's test objects: each NAME.c here into NAME.o.
#
#   ./build.sh              build all
#   ./build.sh NAME...      build these
#
# Needs clang and llvm-strip of one LLVM version (LLVM=19 unless told otherwise) and the Debian
# packages libbpf-dev and linux-libc-dev.
set -eu

cd "$(dirname "$0")"
llvm=${LLVM:-19}

for dir in /usr/include/*-linux-gnu; do
	[ -e "$dir/asm/types.h" ] && asm=$dir
done

build() {
	"clang-$llvm" -O2 -g -target bpf -mcpu=v3 -Wall -Werror -isystem "$asm" \
		-ffile-prefix-map="$PWD"=. -c "$1.c" -o "$1.o"
	"llvm-strip-$llvm" -g "$1.o"
}

if [ $# -eq 0 ]; then
	for source in *.c; do
		[ "$source" = libbpf_oracle.c ] || build "${source%.c}"
	done
else
	for name in "$@"; do build "$name"; done
fi

// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Prints what libbpf makes of objects: maps, and each program's instructions as libbpf hands them to the
// kernel. The loader's differential test compares them with its own.
//
//     cc libbpf_oracle.c -lbpf -o libbpf_oracle && ./libbpf_oracle OBJECT...
//
// Map file descriptors are printed as positions of maps (BPF_PSEUDO_MAP_IDX and _IDX_VALUE), or
// as question marks.
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <linux/bpf.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char log_text[1 << 16];
static size_t log_len;

static int keep(enum libbpf_print_level level, const char *format, va_list args)
{
	if (level == LIBBPF_DEBUG || log_len >= sizeof(log_text) - 1)
		return 0;
	int n = vsnprintf(log_text + log_len, sizeof(log_text) - log_len, format, args);
	if (n > 0)
		log_len += n;
	if (log_len >= sizeof(log_text))
		log_len = sizeof(log_text) - 1;
	return n;
}

static int map_index(const struct bpf_object *obj, int fd)
{
	const struct bpf_map *map;
	int i = 0;

	bpf_object__for_each_map(map, obj) {
		if (bpf_map__fd(map) == fd)
			return i;
		i++;
	}
	return -1;
}

static void print_maps(const struct bpf_object *obj)
{
	const struct bpf_map *map;

	bpf_object__for_each_map(map, obj) {
		size_t size = 0;
		const unsigned char *value = bpf_map__initial_value((struct bpf_map *)map, &size);

		printf("map %s type=%u key=%u value=%u entries=%u flags=%#x extra=%llu numa=%u btf=%u,%u\n",
		       bpf_map__name(map), bpf_map__type(map), bpf_map__key_size(map),
		       bpf_map__value_size(map), bpf_map__max_entries(map), bpf_map__map_flags(map),
		       (unsigned long long)bpf_map__map_extra(map), bpf_map__numa_node(map),
		       bpf_map__btf_key_type_id(map), bpf_map__btf_value_type_id(map));
		printf("value ");
		for (size_t i = 0; value && i < size; i++)
			printf("%02x", value[i]);
		printf("\n");
	}
}

static void print_program(const struct bpf_object *obj, const struct bpf_program *prog)
{
	const struct bpf_insn *insns = bpf_program__insns(prog);
	size_t n = bpf_program__insn_cnt(prog);

	printf("program %s section=%s type=%u attach=%u flags=%#x\n", bpf_program__name(prog),
	       bpf_program__section_name(prog), bpf_program__type(prog),
	       bpf_program__expected_attach_type(prog), bpf_program__flags(prog));
	for (size_t i = 0; i < n; i++) {
		struct bpf_insn insn = insns[i];
		int map = 0;

		if (insn.code == (BPF_LD | BPF_IMM | BPF_DW) && (insn.src_reg == 1 || insn.src_reg == 2)) {
			map = map_index(obj, insn.imm);
			insn.imm = map;
			insn.src_reg += 4;
		}
		unsigned long long bytes = __builtin_bswap64(*(unsigned long long *)&insn);

		/* Descriptors are gone if the kernel refused the program. */
		if (map < 0)
			printf("%08llx????????\n", bytes >> 32);
		else
			printf("%016llx\n", bytes);
	}
}

static void print_object(const char *path, const char *btf, const char *kconfig)
{
	LIBBPF_OPTS(bpf_object_open_opts, opts, .btf_custom_path = btf, .kconfig = kconfig);
	struct bpf_object *obj;
	struct bpf_program *prog;

	log_len = 0;
	printf("object %s\n", path);
	obj = bpf_object__open_file(path, &opts);
	if (!obj) {
		printf("refused %s\n", strtok(log_text, "\n") ?: "?");
		return;
	}
	/* A program of no known type is loaded as XDP, as --prog does. */
	bpf_object__for_each_program(prog, obj)
		if (bpf_program__type(prog) == BPF_PROG_TYPE_UNSPEC)
			bpf_program__set_type(prog, BPF_PROG_TYPE_XDP);
	/* Relocation comes before the verifier, whose verdict does not matter here. */
	int err = bpf_object__load(obj);
	const char *early[] = { "failed to perform CO-RE", "failed to relocate", "not resolved", "extern (" };

	for (int i = 0; err && i < 4; i++) {
		char *at = strstr(log_text, early[i]);

		if (at) {
			printf("refused %s\n", strtok(at, "\n"));
			goto out;
		}
	}
	print_maps(obj);
	bpf_object__for_each_program(prog, obj)
		if (bpf_program__autoload(prog))
			print_program(obj, prog);
out:
	bpf_object__close(obj);
}

int main(int argc, char **argv)
{
	libbpf_set_print(keep);
	printf("libbpf %u.%u\n", libbpf_major_version(), libbpf_minor_version());
	for (int i = 1; i < argc; i++)
		print_object(argv[i], getenv("ORACLE_BTF"), getenv("ORACLE_KCONFIG"));
	return 0;
}

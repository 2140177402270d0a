// SPDX-License-Identifier: MIT OR Apache-2.0
/* Measures a program in DPDK's librte_bpf for `earlybird bench exec`.
 *
 * peer PROGRAM PACKET: raw instructions whose R1 is the packet itself, and raw bytes. Prints nanoseconds of
 * one run, of one run of a program that does nothing, microseconds of compilation, and the verdict.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <rte_bpf.h>
#include <rte_errno.h>

#define SLICES 400
#define SLICE_NS 200000.0

typedef uint64_t (*run_fn)(void *packet);

static double now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1e9 + t.tv_nsec;
}

static size_t read_file(const char *path, void *to, size_t room)
{
	FILE *f = fopen(path, "rb");
	size_t n;

	if (!f) {
		perror(path);
		exit(1);
	}
	n = fread(to, 1, room, f);
	fclose(f);
	return n;
}

static run_fn compile(const void *insns, size_t bytes, size_t packet, double *us)
{
	struct rte_bpf_prm prm = {
		.ins = insns,
		.nb_ins = bytes / sizeof(struct ebpf_insn),
		.prog_arg = { .type = RTE_BPF_ARG_PTR, .size = packet },
	};
	struct rte_bpf_jit jit = { 0 };
	double best = 1e12;
	struct rte_bpf *bpf;

	for (int i = 0; i < 10; i++) {
		double start = now_ns(), took;

		bpf = rte_bpf_load(&prm);
		took = (now_ns() - start) / 1e3;
		if (!bpf) {
			fprintf(stderr, "librte_bpf refuses the program: %s\n", strerror(rte_errno));
			exit(1);
		}
		best = took < best ? took : best;
		if (i < 9)
			rte_bpf_destroy(bpf);
	}
	if (rte_bpf_get_jit(bpf, &jit) || !jit.func) {
		fprintf(stderr, "librte_bpf does not compile the program\n");
		exit(1);
	}
	*us = best;
	return (run_fn)jit.func;
}

static double measure(run_fn run, void *packet, long repeat)
{
	double start = now_ns();

	for (long i = 0; i < repeat; i++)
		run(packet);
	return (now_ns() - start) / repeat;
}

int main(int argc, char **argv)
{
	static const struct ebpf_insn empty[] = { { .code = 0xb7, .imm = 2 }, { .code = 0x95 } };
	static uint8_t program[1 << 20], packet[2048];
	double us, ignored, total = 1e12, entry = 1e12, trial;
	run_fn run, nothing;
	size_t bytes, len;
	uint64_t verdict;
	long repeat;

	if (argc != 3)
		return 1;
	bytes = read_file(argv[1], program, sizeof(program));
	len = read_file(argv[2], packet, sizeof(packet));
	run = compile(program, bytes, len, &us);
	nothing = compile(empty, sizeof(empty), len, &ignored);
	verdict = run(packet);
	trial = measure(run, packet, 64);
	repeat = trial > 0 ? SLICE_NS / trial : 100000;
	repeat = repeat < 64 ? 64 : repeat > 100000 ? 100000 : repeat;
	for (int i = 0; i < SLICES; i++) {
		double a = measure(nothing, packet, repeat), b = measure(run, packet, repeat);

		entry = a < entry ? a : entry;
		total = b < total ? b : total;
	}
	printf("%f %f %f %u\n", total, entry, us, (uint32_t)verdict);
	return 0;
}

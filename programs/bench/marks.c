/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * What the compiler is measured by: OPS operations a run, or as many tail calls as are allowed. Every program
 * fills its table in its first runs, so that a program can be measured by itself; the runs after that only
 * look up, and every lookup finds something.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#define OPS 64
#define MILLION (1 << 20)

#define TABLE(name, map_type, entries)                                                             \
	struct {                                                                                   \
		__uint(type, map_type);                                                            \
		__type(key, __u32);                                                                \
		__type(value, __u64);                                                              \
		__uint(max_entries, entries);                                                      \
	} name SEC(".maps")

TABLE(array64, BPF_MAP_TYPE_ARRAY, OPS);
TABLE(hash64, BPF_MAP_TYPE_HASH, OPS);
TABLE(lru64, BPF_MAP_TYPE_LRU_HASH, OPS);
TABLE(hash1m, BPF_MAP_TYPE_HASH, MILLION);

__u32 filled;
__u32 state = 1;

/* Puts the next OPS of n keys in; answers 0 when all are in. */
static __always_inline int fill(void *map, __u32 n)
{
	__u32 first = filled;

	if (first >= n)
		return 0;
	for (int i = 0; i < OPS; i++) {
		__u32 key = first + i;
		__u64 value = 1;

		bpf_map_update_elem(map, &key, &value, BPF_ANY);
	}
	filled = first + OPS;
	return 1;
}

/* Keys come from a linear congruential generator, so none depends on what was found before. */
#define LOOKUPS(map, bits)                                                                         \
	SEC("xdp/" #map) int map##_lookup(struct xdp_md *ctx)                                      \
	{                                                                                          \
		__u32 random = state;                                                              \
		__u64 sum = 0;                                                                     \
		if (fill(&map, 1 << (bits)))                                                       \
			return XDP_PASS;                                                           \
		for (int i = 0; i < OPS; i++) {                                                    \
			random = random * 1664525 + 1013904223;                                    \
			__u32 key = random >> (32 - (bits));                                       \
			__u64 *value = bpf_map_lookup_elem(&map, &key);                            \
			if (value)                                                                 \
				sum += *value;                                                     \
		}                                                                                  \
		state = random;                                                                    \
		return sum == OPS ? XDP_PASS : XDP_ABORTED;                                        \
	}

LOOKUPS(array64, 6)
LOOKUPS(hash64, 6)
LOOKUPS(lru64, 6)
LOOKUPS(hash1m, 20)

/* Calls itself until it may not any more. */
int tail_call(struct xdp_md *ctx);

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__uint(key_size, sizeof(__u32));
	__array(values, int(struct xdp_md *));
} self SEC(".maps") = { .values = { [0] = tail_call } };

SEC("xdp/tail_call") int tail_call(struct xdp_md *ctx)
{
	bpf_tail_call(ctx, &self, 0);
	return XDP_PASS;
}

char _license[] SEC("license") = "GPL";

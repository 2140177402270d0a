// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Access outside of a map's key, or write to it.
//
// Rejected: EB0408 at line 12
#include "rejection.h"

HASH(values, __u64, 16);

static long change(void *map, __u32 *key, __u64 *value, void *arg)
{
	*key = 1;
	return 0;
}

static long add(void *map, __u32 *key, __u64 *value, void *arg)
{
	*value += *key;
	return 0;
}

SEC("xdp")
int refused(struct xdp_md *ctx)
{
	bpf_for_each_map_elem(&values, change, NULL, 0);
	return XDP_PASS;
}

SEC("xdp")
int mended(struct xdp_md *ctx)
{
	bpf_for_each_map_elem(&values, add, NULL, 0);
	return XDP_PASS;
}

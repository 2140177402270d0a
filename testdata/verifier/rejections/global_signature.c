// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Parameter or result that a global function cannot have.
//
// Rejected: EB0802 at line 23
#include "rejection.h"

HASH(values, __u64, 16);

__noinline __u64 *find(__u32 key)
{
	return bpf_map_lookup_elem(&values, &key);
}

static __noinline __u64 *find_here(__u32 key)
{
	return bpf_map_lookup_elem(&values, &key);
}

SEC("xdp")
int refused(struct xdp_md *ctx)
{
	__u64 *value = find(ctx->rx_queue_index);

	return value ? XDP_PASS : XDP_DROP;
}

SEC("xdp")
int mended(struct xdp_md *ctx)
{
	__u64 *value = find_here(ctx->rx_queue_index);

	return value ? XDP_PASS : XDP_DROP;
}

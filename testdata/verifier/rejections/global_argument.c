// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Arguments do not keep a global function's contract.
//
// Rejected: EB0801 at line 25
#include "rejection.h"

struct pair {
	__u32 a, b;
};

HASH(values, struct pair, 16);

__noinline int sum(struct pair *pair __arg_nonnull)
{
	return pair->a + pair->b;
}

SEC("xdp")
int refused(struct xdp_md *ctx)
{
	__u32 key = ctx->rx_queue_index;
	struct pair *pair = bpf_map_lookup_elem(&values, &key);

	return sum(pair) ? XDP_PASS : XDP_DROP;
}

SEC("xdp")
int mended(struct xdp_md *ctx)
{
	__u32 key = ctx->rx_queue_index;
	struct pair *pair = bpf_map_lookup_elem(&values, &key);

	if (!pair)
		return XDP_DROP;
	return sum(pair) ? XDP_PASS : XDP_DROP;
}

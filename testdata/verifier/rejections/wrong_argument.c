// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Argument of the wrong kind.
//
// Rejected: EB0503 at line 13
#include "rejection.h"

HASH(values, __u64, 16);

SEC("xdp")
int refused(struct xdp_md *ctx)
{
	__u64 *value = bpf_map_lookup_elem(&values, ctx);

	return value ? XDP_PASS : XDP_DROP;
}

SEC("xdp")
int mended(struct xdp_md *ctx)
{
	__u32 key = ctx->rx_queue_index;
	__u64 *value = bpf_map_lookup_elem(&values, &key);

	return value ? XDP_PASS : XDP_DROP;
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Access through a pointer that may be null.
//
// Rejected: EB0401 at line 16
#include "rejection.h"

HASH(values, __u64, 16);

SEC("xdp")
int refused(struct xdp_md *ctx)
{
	__u32 key = ctx->rx_queue_index;
	__u64 *value = bpf_map_lookup_elem(&values, &key);

	return *value ? XDP_PASS : XDP_DROP;
}

SEC("xdp")
int mended(struct xdp_md *ctx)
{
	__u32 key = ctx->rx_queue_index;
	__u64 *value = bpf_map_lookup_elem(&values, &key);

	if (!value)
		return XDP_DROP;
	return *value ? XDP_PASS : XDP_DROP;
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Access outside of a map's value.
//
// Rejected: EB0405 at line 18
#include "rejection.h"

ARRAY(values, struct { __u64 slots[16]; }, 1);

SEC("xdp")
int refused(struct xdp_md *ctx)
{
	__u32 key = 0, queue = ctx->rx_queue_index;
	values_value *value = bpf_map_lookup_elem(&values, &key);

	if (!value || queue > 16)
		return XDP_DROP;
	value->slots[queue]++;
	return XDP_PASS;
}

SEC("xdp")
int mended(struct xdp_md *ctx)
{
	__u32 key = 0, queue = ctx->rx_queue_index;
	values_value *value = bpf_map_lookup_elem(&values, &key);

	if (!value || queue >= 16)
		return XDP_DROP;
	value->slots[queue]++;
	return XDP_PASS;
}

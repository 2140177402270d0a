// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Offset without an upper bound.
//
// Rejected: EB0406 at line 18
#include "rejection.h"

ARRAY(values, struct { char bytes[64]; }, 1);

SEC("xdp")
int refused(struct xdp_md *ctx)
{
	__u32 key = 0, queue = ctx->rx_queue_index;
	values_value *value = bpf_map_lookup_elem(&values, &key);

	if (!value)
		return XDP_DROP;
	value->bytes[queue] = 1;
	return XDP_PASS;
}

SEC("xdp")
int mended(struct xdp_md *ctx)
{
	__u32 key = 0, queue = ctx->rx_queue_index;
	values_value *value = bpf_map_lookup_elem(&values, &key);

	if (!value || queue >= sizeof(value->bytes))
		return XDP_DROP;
	value->bytes[queue] = 1;
	return XDP_PASS;
}

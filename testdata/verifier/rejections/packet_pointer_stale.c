// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Access through something that is no pointer.
//
// Rejected: EB0402 at line 17
#include "rejection.h"

SEC("xdp")
int refused(struct xdp_md *ctx)
{
	__u8 *data = (__u8 *)(long)ctx->data;

	if (data + 1 > (__u8 *)(long)ctx->data_end)
		return XDP_DROP;
	if (bpf_xdp_adjust_head(ctx, -4))
		return XDP_DROP;
	*data = 0;
	return XDP_PASS;
}

SEC("xdp")
int mended(struct xdp_md *ctx)
{
	__u8 *data;

	if (bpf_xdp_adjust_head(ctx, -4))
		return XDP_DROP;
	data = (__u8 *)(long)ctx->data;
	if (data + 1 > (__u8 *)(long)ctx->data_end)
		return XDP_DROP;
	*data = 0;
	return XDP_PASS;
}

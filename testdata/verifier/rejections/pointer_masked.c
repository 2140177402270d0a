// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Operation that pointers do not have.
//
// Rejected: EB0204 at line 14
#include "rejection.h"

SEC("xdp")
int refused(struct xdp_md *ctx)
{
	__u64 data = ctx->data;
	__u8 *odd;

	data |= 1;
	odd = (__u8 *)data;
	if (odd + 1 > (__u8 *)(long)ctx->data_end)
		return XDP_DROP;
	return *odd ? XDP_PASS : XDP_DROP;
}

SEC("xdp")
int mended(struct xdp_md *ctx)
{
	__u8 *data = (__u8 *)(long)ctx->data;
	__u64 at = ctx->rx_queue_index & 0xfc;

	if (data + at + 1 > (__u8 *)(long)ctx->data_end)
		return XDP_DROP;
	return XDP_PASS;
}

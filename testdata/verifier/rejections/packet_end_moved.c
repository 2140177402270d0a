// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Arithmetic on a pointer of a kind that has none.
//
// Rejected: EB0206 at line 14
#include "rejection.h"

SEC("xdp")
int refused(struct xdp_md *ctx)
{
	__u8 *data = (__u8 *)(long)ctx->data;
	__u8 *last = (__u8 *)(long)ctx->data_end;

	last -= 14;
	hide(last);
	if (data > last)
		return XDP_DROP;
	return data[13] ? XDP_PASS : XDP_DROP;
}

SEC("xdp")
int mended(struct xdp_md *ctx)
{
	__u8 *data = (__u8 *)(long)ctx->data;
	__u8 *end = (__u8 *)(long)ctx->data_end;

	if (data + 14 > end)
		return XDP_DROP;
	return data[13] ? XDP_PASS : XDP_DROP;
}

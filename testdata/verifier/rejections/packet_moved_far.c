// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Packet pointer moved by more than 65535: the comparison with the end teaches nothing.
//
// Rejected: EB0403 at line 18
// Cause: limit
#include "rejection.h"

SEC("xdp")
int refused(struct xdp_md *ctx)
{
	__u8 *data = (__u8 *)(long)ctx->data;
	__u32 at = bpf_get_prandom_u32() & 0x1ffff;

	data += at;
	if (data + 1 > (__u8 *)(long)ctx->data_end)
		return XDP_DROP;
	return *data ? XDP_PASS : XDP_DROP;
}

SEC("xdp")
int mended(struct xdp_md *ctx)
{
	__u8 *data = (__u8 *)(long)ctx->data;
	__u32 at = bpf_get_prandom_u32() & 0x7fff;

	data += at;
	if (data + 1 > (__u8 *)(long)ctx->data_end)
		return XDP_DROP;
	return *data ? XDP_PASS : XDP_DROP;
}

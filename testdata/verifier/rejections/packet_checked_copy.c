// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Packet pointer computed twice, as compilers do: one copy is compared, the other one used.
//
// Rejected: EB0403 at line 19
// Cause: lowering
#include "rejection.h"

SEC("xdp")
int refused(struct xdp_md *ctx)
{
	__u8 *data = (__u8 *)(long)ctx->data, *compared = data, *used = data;
	__u64 at = ctx->rx_queue_index & 0xff;

	asm volatile("%0 += %1" : "+r"(compared) : "r"(at));
	asm volatile("%0 += %1" : "+r"(used) : "r"(at));
	if (compared + 1 > (__u8 *)(long)ctx->data_end)
		return XDP_DROP;
	return *used ? XDP_PASS : XDP_DROP;
}

SEC("xdp")
int mended(struct xdp_md *ctx)
{
	__u8 *data = (__u8 *)(long)ctx->data, *compared = data, *used = data;
	__u64 at = ctx->rx_queue_index & 0xff;

	asm volatile("%0 += %1" : "+r"(compared) : "r"(at));
	used = compared;
	if (compared + 1 > (__u8 *)(long)ctx->data_end)
		return XDP_DROP;
	return *used ? XDP_PASS : XDP_DROP;
}

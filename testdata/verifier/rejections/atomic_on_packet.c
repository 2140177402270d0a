// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Atomic instruction on memory that has none.
//
// Rejected: EB0414 at line 15
#include "rejection.h"

SEC("xdp")
int refused(struct xdp_md *ctx)
{
	__u32 *data = (void *)(long)ctx->data;

	if ((void *)(data + 1) > (void *)(long)ctx->data_end)
		return XDP_DROP;
	__sync_fetch_and_add(data, 1);
	return XDP_PASS;
}

SEC("xdp")
int mended(struct xdp_md *ctx)
{
	__u32 *data = (void *)(long)ctx->data;

	if ((void *)(data + 1) > (void *)(long)ctx->data_end)
		return XDP_DROP;
	*data += 1;
	return XDP_PASS;
}

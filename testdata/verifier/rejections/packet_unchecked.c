// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Packet access that no comparison with data_end covers.
//
// Rejected: EB0403 at line 23
#include "rejection.h"

struct header {
	__u8 kind;
	__u8 length;
};

SEC("xdp")
int refused(struct xdp_md *ctx)
{
	struct header *header = (void *)(long)ctx->data;
	void *end = (void *)(long)ctx->data_end;
	__u8 *option;

	if ((void *)(header + 1) > end)
		return XDP_DROP;
	option = (__u8 *)(header + 1) + (header->length & 0x3f);
	return *option ? XDP_PASS : XDP_DROP;
}

SEC("xdp")
int mended(struct xdp_md *ctx)
{
	struct header *header = (void *)(long)ctx->data;
	void *end = (void *)(long)ctx->data_end;
	__u8 *option;

	if ((void *)(header + 1) > end)
		return XDP_DROP;
	option = (__u8 *)(header + 1) + (header->length & 0x3f);
	if ((void *)(option + 1) > end)
		return XDP_DROP;
	return *option ? XDP_PASS : XDP_DROP;
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//
// The packet cannot be handed to this helper.
//
// Rejected: EB0509 at line 17
#include "rejection.h"

RINGBUF(events, 4096);

SEC("xdp")
int refused(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data;

	if (data + 14 > (void *)(long)ctx->data_end)
		return XDP_DROP;
	bpf_ringbuf_output(&events, data, 14, 0);
	return XDP_PASS;
}

SEC("xdp")
int mended(struct xdp_md *ctx)
{
	char copy[14];

	if (bpf_xdp_load_bytes(ctx, 0, copy, sizeof(copy)))
		return XDP_DROP;
	bpf_ringbuf_output(&events, copy, sizeof(copy), 0);
	return XDP_PASS;
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Argument that must be a constant.
//
// Rejected: EB0507 at line 14
#include "rejection.h"

RINGBUF(events, 4096);

SEC("xdp")
int refused(struct xdp_md *ctx)
{
	__u64 size = (ctx->rx_queue_index & 31) + 1;
	void *event = bpf_ringbuf_reserve(&events, size, 0);

	if (event)
		bpf_ringbuf_discard(event, 0);
	return XDP_PASS;
}

SEC("xdp")
int mended(struct xdp_md *ctx)
{
	void *event = bpf_ringbuf_reserve(&events, 32, 0);

	if (event)
		bpf_ringbuf_discard(event, 0);
	return XDP_PASS;
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Reference that is not given back.
//
// Rejected: EB0601 at line 22
#include "rejection.h"

RINGBUF(events, 4096);

SEC("xdp")
int refused(struct xdp_md *ctx)
{
	__u64 *event = bpf_ringbuf_reserve(&events, 8, 0);

	if (!event)
		return XDP_PASS;
	*event = 1;
	if (ctx->rx_queue_index)
		return XDP_DROP;
	bpf_ringbuf_submit(event, 0);
	return XDP_PASS;
}

SEC("xdp")
int mended(struct xdp_md *ctx)
{
	__u64 *event = bpf_ringbuf_reserve(&events, 8, 0);

	if (!event)
		return XDP_PASS;
	*event = 1;
	if (ctx->rx_queue_index) {
		bpf_ringbuf_discard(event, 0);
		return XDP_DROP;
	}
	bpf_ringbuf_submit(event, 0);
	return XDP_PASS;
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Release of what is not held.
//
// Rejected: EB0603 at line 19
#include "rejection.h"

RINGBUF(events, 4096);

SEC("xdp")
int refused(struct xdp_md *ctx)
{
	__u64 *event = bpf_ringbuf_reserve(&events, 16, 0);

	if (!event)
		return XDP_PASS;
	*event++ = 1;
	*event++ = 2;
	bpf_ringbuf_submit(event, 0);
	return XDP_PASS;
}

SEC("xdp")
int mended(struct xdp_md *ctx)
{
	__u64 *event = bpf_ringbuf_reserve(&events, 16, 0);

	if (!event)
		return XDP_PASS;
	event[0] = 1;
	event[1] = 2;
	bpf_ringbuf_submit(event, 0);
	return XDP_PASS;
}

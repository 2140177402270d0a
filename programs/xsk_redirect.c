// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* xsk_redirect: frames to the AF_XDP socket of their receive queue.
 *
 * A socket in entry N of the map xsks gets the frames of queue N, with `struct frame_meta` in
 * front of each, if there is headroom for it. Queues without a socket pass to the stack; for them
 * nothing is put in front, since the stack does not merge segments whose metadata differ.
 *
 * Maps: xsks, queues (frames redirected and passed per queue and CPU).
 */
#include "include/flow.h"

#define QUEUES 64

/* What stands in front of a frame in the socket's memory. */
struct frame_meta {
	__u32 magic;
	__u32 flow_hash; /* 0: not IP, or malformed */
};

#define FRAME_MAGIC 0x45425831 /* "EBX1" */

struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, QUEUES);
	__type(key, __u32);
	__type(value, __u32);
} xsks SEC(".maps");

struct queue_stats {
	__u64 redirected;
	__u64 passed;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, QUEUES);
	__type(key, __u32);
	__type(value, struct queue_stats);
} queues SEC(".maps");

static __always_inline void leave_meta(struct xdp_md *ctx)
{
	struct flow_key flow;
	enum flow_kind kind = flow_of(ctx, &flow);
	struct frame_meta *meta;

	if (bpf_xdp_adjust_meta(ctx, -(int)sizeof(*meta)))
		return;
	meta = (void *)(long)ctx->data_meta;
	if ((void *)(meta + 1) > (void *)(long)ctx->data)
		return;
	meta->magic = FRAME_MAGIC;
	meta->flow_hash = kind == FLOW_OK || kind == FLOW_FRAGMENT ? flow_hash(&flow, 0) : 0;
}

SEC("xdp")
int xsk_redirect(struct xdp_md *ctx)
{
	__u32 queue = ctx->rx_queue_index;
	struct queue_stats *stats = bpf_map_lookup_elem(&queues, &queue);
	bool taken = bpf_map_lookup_elem(&xsks, &queue) != NULL;

	if (stats) {
		stats->redirected += taken;
		stats->passed += !taken;
	}
	if (!taken)
		return XDP_PASS;
	leave_meta(ctx);
	/* The socket may go between the look and the redirect: then the frame passes. */
	return bpf_redirect_map(&xsks, queue, XDP_PASS);
}

char _license[] SEC("license") = "Dual BSD/GPL";

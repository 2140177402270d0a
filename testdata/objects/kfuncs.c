// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Resilient spin locks, dynptrs that are filled from memory that may not be there, IPsec states, streams.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#define EDEADLK 35

struct bpf_res_spin_lock {
	__u32 val;
};

struct locked {
	struct bpf_res_spin_lock lock;
	__u32 packets;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 4);
	__type(key, __u32);
	__type(value, struct locked);
} values SEC(".maps");

struct bpf_xfrm_state_opts {
	__s32 error;
	__s32 netns_id;
	__u32 mark;
	__be32 daddr[4];
	__be32 spi;
	__u8 proto;
	__u16 family;
};

struct xfrm_state {
	int unused;
};

extern int bpf_res_spin_lock(struct bpf_res_spin_lock *lock) __ksym;
extern void bpf_res_spin_unlock(struct bpf_res_spin_lock *lock) __ksym;
extern int bpf_res_spin_lock_irqsave(struct bpf_res_spin_lock *lock, unsigned long *flags) __ksym;
extern void bpf_res_spin_unlock_irqrestore(struct bpf_res_spin_lock *lock, unsigned long *flags) __ksym;
extern int bpf_dynptr_from_xdp(struct xdp_md *ctx, __u64 flags, struct bpf_dynptr *ptr) __ksym;
extern int bpf_probe_read_kernel_dynptr(struct bpf_dynptr *ptr, __u32 off, __u32 size, const void *src) __ksym;
extern int bpf_probe_read_kernel_str_dynptr(struct bpf_dynptr *ptr, __u32 off, __u32 size, const void *src) __ksym;
extern int bpf_probe_read_user_dynptr(struct bpf_dynptr *ptr, __u32 off, __u32 size, const void *src) __ksym;
extern struct xfrm_state *bpf_xdp_get_xfrm_state(struct xdp_md *ctx, struct bpf_xfrm_state_opts *opts,
						 __u32 opts__sz) __ksym;
extern void bpf_xdp_xfrm_state_release(struct xfrm_state *state) __ksym;

const char text[] = "resilient";
__s32 answers[8];
__u64 deadlocks, timeouts;

SEC("xdp")
int locks(struct xdp_md *ctx)
{
	__u32 zero = 0, one = 1;
	struct locked *a = bpf_map_lookup_elem(&values, &zero), *b = bpf_map_lookup_elem(&values, &one);
	/* The verifier does not know that it is the same. */
	struct locked *again = bpf_map_lookup_elem(&values, &zero);
	unsigned long flags;

	if (!a || !b || !again)
		return XDP_ABORTED;
	if (bpf_res_spin_lock(&a->lock))
		return XDP_ABORTED;
	a->packets++;
	if (bpf_res_spin_lock_irqsave(&b->lock, &flags)) {
		bpf_res_spin_unlock(&a->lock);
		return XDP_ABORTED;
	}
	b->packets += 2;
	bpf_res_spin_unlock_irqrestore(&b->lock, &flags);
	switch (bpf_res_spin_lock(&again->lock)) {
	case 0:
		bpf_res_spin_unlock(&again->lock);
		break;
	case -EDEADLK:
		deadlocks++;
		break;
	default:
		timeouts++;
	}
	bpf_res_spin_unlock(&a->lock);
	return XDP_PASS;
}

SEC("xdp.frags")
int probes(struct xdp_md *ctx)
{
	struct bpf_xfrm_state_opts opts = { .netns_id = -1, .spi = 1, .proto = 50, .family = 2 };
	struct xfrm_state *state;
	struct bpf_dynptr ptr;

	if (bpf_dynptr_from_xdp(ctx, 0, &ptr))
		return XDP_ABORTED;
	answers[0] = bpf_probe_read_kernel_dynptr(&ptr, 16, sizeof(text), text);
	answers[1] = bpf_probe_read_kernel_str_dynptr(&ptr, 40, 20, text);
	answers[2] = bpf_probe_read_kernel_str_dynptr(&ptr, 28, 4, text);
	answers[3] = bpf_probe_read_kernel_dynptr(&ptr, 0, 8, (void *)8);
	answers[4] = bpf_probe_read_user_dynptr(&ptr, 0, 8, (void *)8);
	answers[5] = bpf_probe_read_kernel_dynptr(&ptr, 1 << 20, 8, text);
	state = bpf_xdp_get_xfrm_state(ctx, &opts, sizeof(opts));
	answers[6] = opts.error;
	if (state)
		bpf_xdp_xfrm_state_release(state);
	return XDP_PASS;
}

/* The kernel's view of a packet, and pointers to nothing. */
struct xdp_rxq_info {
	__u32 queue_index;
	__u32 frag_size;
} __attribute__((preserve_access_index));

struct xdp_buff {
	void *data;
	void *data_end;
	struct xdp_rxq_info *rxq;
	__u32 frame_sz;
} __attribute__((preserve_access_index));

extern void *bpf_cast_to_kern_ctx(void *ctx) __ksym;
extern void *bpf_rdonly_cast(const void *obj, __u32 btf_id) __ksym;

SEC("xdp")
int casts(struct xdp_md *ctx)
{
	struct xdp_buff *buff = bpf_cast_to_kern_ctx(ctx);
	__u64 *nothing = bpf_rdonly_cast((void *)8, 0);
	signed char *small = bpf_rdonly_cast((void *)16, 0);

	answers[0] = (__u64)buff->data_end - (__u64)buff->data;
	answers[1] = buff->frame_sz;
	answers[2] = buff->rxq->queue_index;
	answers[3] = buff->rxq->frag_size;
	answers[4] = *nothing;
	answers[5] = *small;
	return XDP_PASS;
}

char _license[] SEC("license") = "GPL";

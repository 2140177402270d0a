// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* jumbo_csum and jumbo_trim: two readers of large frames, whose bytes lie in several pages.
 *
 * jumbo_csum adds up the TCP or UDP checksum over the whole frame and drops frames where it is
 * wrong. It reads with bpf_xdp_load_bytes(), piece by piece, in a bpf_loop(). What has no such
 * checksum (fragments, other protocols, UDP over IPv4 without one) passes.
 *
 * jumbo_trim cuts off what stands behind the end of the IP packet: Ethernet padding, or what
 * somebody left there. It reads through a dynptr, with slices for headers, and shortens the frame
 * where its last page is. It counts trailers that are not all zero, which are a leak of somebody's
 * memory. A kernel without these kfuncs (before 6.4) still loads it; it then passes everything.
 *
 * Counters are in .bss, each with its name.
 */
#include "include/parse.h"
#include "include/csum.h"

/* Newer than the headers of Debian 12. Weak, so that a kernel without them is no load error. */
extern int bpf_dynptr_from_xdp(struct xdp_md *xdp, __u64 flags,
			       struct bpf_dynptr *ptr) __ksym __weak;
extern void *bpf_dynptr_slice(const struct bpf_dynptr *ptr, __u32 offset, void *buffer,
			      __u32 size) __ksym __weak;

__u64 csum_good;
__u64 csum_bad;
__u64 csum_none;
__u64 csum_cut_off;
__u64 trimmed_frames;
__u64 trimmed_bytes;
__u64 leaking_frames;

/* Even, so that every piece starts on a 16-bit word of the sum. */
#define PIECE 256
/* The helper reads offsets up to 65535. */
#define MAX_PIECES (65536 / PIECE)

struct summing {
	struct xdp_md *ctx;
	__u32 offset;
	__u32 end;
	__u64 sum;
	bool failed;
};

/* One piece; 1 ends the loop. The last piece is filled up with zeros, which add nothing. */
static long add_piece(__u32 index, struct summing *s)
{
	__u8 bytes[PIECE] = {};
	__u32 length = s->end - s->offset;

	/* The offset comes to stand at the end exactly. The compiler would compare those two, and
	 * the verifier would not see that length is not 0 behind it.
	 */
	barrier_var(length);
	if (length == 0)
		return 1;
	if (length > PIECE)
		length = PIECE;
	if (bpf_xdp_load_bytes(s->ctx, s->offset, bytes, length)) {
		s->failed = true;
		return 1;
	}
	s->sum = bpf_csum_diff(NULL, 0, (__be32 *)bytes, sizeof(bytes), s->sum);
	s->offset += length;
	return 0;
}

/* Sets what to sum up, starting with the pseudo header, or says that there is nothing to check. */
static __always_inline bool find_l4(struct xdp_md *ctx, struct summing *s)
{
	struct cursor c = frame_start(ctx);
	__u32 length;
	__u8 l4_proto;
	__be16 proto;
	void *start = c.pos;

	if (!take_eth(&c, &proto) || !skip_vlans(&c, &proto))
		return false;
	if (proto == bpf_htons(ETH_P_IP)) {
		struct iphdr *ip = take_ipv4(&c);

		if (!ip || ip->frag_off & bpf_htons(IPV4_OFFSET | IPV4_MF))
			return false;
		if (bpf_ntohs(ip->tot_len) < ip->ihl * 4)
			return false;
		length = bpf_ntohs(ip->tot_len) - ip->ihl * 4;
		l4_proto = ip->protocol;
		s->sum = bpf_csum_diff(NULL, 0, &ip->saddr, 8, 0);
	} else if (proto == bpf_htons(ETH_P_IPV6)) {
		struct ipv6hdr *ip6 = take_ipv6(&c);

		if (!ip6)
			return false;
		length = bpf_ntohs(ip6->payload_len);
		l4_proto = ip6->nexthdr;
		s->sum = bpf_csum_diff(NULL, 0, (__be32 *)&ip6->saddr, 32, 0);
	} else {
		return false;
	}

	s->offset = c.pos - start;
	s->end = s->offset + length;
	s->sum += bpf_htons(length) + bpf_htons(l4_proto);
	if (l4_proto == IPPROTO_UDP) {
		struct udphdr *udp = take(&c, sizeof(*udp));

		return udp && udp->check;
	}
	return l4_proto == IPPROTO_TCP;
}

SEC("xdp.frags")
int jumbo_csum(struct xdp_md *ctx)
{
	struct summing s = { .ctx = ctx };

	if (!find_l4(ctx, &s)) {
		__sync_fetch_and_add(&csum_none, 1);
		return XDP_PASS;
	}
	if (s.end > bpf_xdp_get_buff_len(ctx)) {
		__sync_fetch_and_add(&csum_cut_off, 1);
		return XDP_DROP;
	}
	bpf_loop(MAX_PIECES, add_piece, &s, 0);
	if (s.failed || csum_fold(s.sum) != 0) {
		__sync_fetch_and_add(&csum_bad, 1);
		return XDP_DROP;
	}
	__sync_fetch_and_add(&csum_good, 1);
	return XDP_PASS;
}

/* How long the frame is by its IP header; 0 if it has none. */
static __always_inline __u32 length_by_ip(const struct bpf_dynptr *frame)
{
	union {
		struct ethhdr eth;
		struct vlan_hdr vlan;
		struct iphdr ip;
		struct ipv6hdr ip6;
	} room;
	__u32 offset = sizeof(struct ethhdr);
	struct ethhdr *eth;
	__be16 proto;

	/* A slice is the frame itself where it lies in one piece, else a copy in room. */
	eth = bpf_dynptr_slice(frame, 0, &room, sizeof(*eth));
	if (!eth)
		return 0;
	proto = eth->h_proto;
	for (int i = 0; i < 2 && is_vlan(proto); i++) {
		struct vlan_hdr *vlan = bpf_dynptr_slice(frame, offset, &room, sizeof(*vlan));

		if (!vlan)
			return 0;
		proto = vlan->proto;
		offset += sizeof(*vlan);
	}
	if (proto == bpf_htons(ETH_P_IP)) {
		struct iphdr *ip = bpf_dynptr_slice(frame, offset, &room, sizeof(*ip));

		return ip && ip->version == 4 ? offset + bpf_ntohs(ip->tot_len) : 0;
	}
	if (proto == bpf_htons(ETH_P_IPV6)) {
		struct ipv6hdr *ip6 = bpf_dynptr_slice(frame, offset, &room, sizeof(*ip6));

		if (!ip6 || ip6->version != 6)
			return 0;
		return offset + sizeof(*ip6) + bpf_ntohs(ip6->payload_len);
	}
	return 0;
}

/* Looks at the first words of the trailer; padding is rarely longer. */
static __always_inline bool is_leaking(const struct bpf_dynptr *frame, __u32 offset, __u32 length)
{
	__u64 words[4] = {};

	if (length > sizeof(words))
		length = sizeof(words);
	if (length == 0 || bpf_dynptr_read(words, length, (struct bpf_dynptr *)frame, offset, 0))
		return false;
	return words[0] | words[1] | words[2] | words[3];
}

SEC("xdp.frags")
int jumbo_trim(struct xdp_md *ctx)
{
	struct bpf_dynptr frame;
	__u32 length, actual, trailer;

	if (!bpf_dynptr_from_xdp || !bpf_dynptr_slice)
		return XDP_PASS;
	actual = bpf_xdp_get_buff_len(ctx);
	if (bpf_dynptr_from_xdp(ctx, 0, &frame))
		return XDP_PASS;
	length = length_by_ip(&frame);
	if (!length || length >= actual)
		return XDP_PASS;
	trailer = actual - length;
	if (is_leaking(&frame, length, trailer))
		__sync_fetch_and_add(&leaking_frames, 1);
	if (bpf_xdp_adjust_tail(ctx, -(int)trailer))
		return XDP_PASS;
	__sync_fetch_and_add(&trimmed_frames, 1);
	__sync_fetch_and_add(&trimmed_bytes, trailer);
	return XDP_PASS;
}

char _license[] SEC("license") = "Dual BSD/GPL";

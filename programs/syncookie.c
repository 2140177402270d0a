// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* syncookie: a SYN proxy in front of TCP servers, IPv4 and IPv6.
 *
 * A SYN to a protected port is answered here (XDP_TX) with a SYN-ACK whose sequence number is a
 * SYN cookie of the kernel's own kind: nothing is stored, so a flood of SYNs costs no memory. The
 * ACK that brings a valid cookie back shows that the sender is where it says it is; it and all
 * that the connection sends afterwards passes. Other segments to a protected port are dropped, and
 * everything else passes.
 *
 * What passes first is an ACK that the stack has seen no SYN for. netfilter's SYNPROXY takes it up
 * from there, since its cookies are the same (README.md has the rule).
 *
 * Maps: verified (LRU, connections that brought their cookie), results (packets per enum result
 * and CPU).
 */
#include "include/flow.h"
#include "include/csum.h"

/* In .data, ended by 0: user space may change them while the program runs. */
#define PORTS 8
__u16 protected_ports[PORTS] = { 80, 443, 8080 };

/* What our SYN-ACK announces, instead of the server's own wish. */
__u16 mss_ipv4 = 1460;
__u16 mss_ipv6 = 1440;
__u16 window = 64240;

enum result {
	RESULT_OTHER,
	RESULT_COOKIE_SENT,
	RESULT_COOKIE_GOOD,
	RESULT_COOKIE_BAD,
	RESULT_VERIFIED,
	RESULT_REFUSED,	  /* a segment that belongs to no verified connection */
	RESULT_NO_COOKIE, /* the kernel made none */
	RESULTS,
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536);
	__type(key, struct flow_key);
	__type(value, __u32);
} verified SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, RESULTS);
	__type(key, __u32);
	__type(value, __u64);
} results SEC(".maps");

#define TCP_MAX_HEADER 60
#define TCPOPT_MSS 2

struct mss_option {
	__u8 kind;
	__u8 length;
	__be16 mss;
} __attribute__((packed));

struct synack {
	struct tcphdr tcp;
	struct mss_option mss;
} __attribute__((packed));

struct synack_ipv4 {
	struct ethhdr eth;
	struct iphdr ip;
	struct synack synack;
} __attribute__((packed));

struct synack_ipv6 {
	struct ethhdr eth;
	struct ipv6hdr ip6;
	struct synack synack;
} __attribute__((packed));

static __always_inline int verdict(enum result result, int action)
{
	count(&results, result);
	return action;
}

static __noinline bool is_protected(__u16 port)
{
	for (int i = 0; i < PORTS && protected_ports[i]; i++) {
		if (protected_ports[i] == port)
			return true;
	}
	return false;
}

/* Makes a SYN-ACK of the SYN's header; the checksum is left to the caller. */
static __always_inline void fill_synack(struct synack *s, __u32 cookie, __u16 mss)
{
	struct tcphdr *tcp = &s->tcp;
	__be16 port = tcp->source;

	tcp->source = tcp->dest;
	tcp->dest = port;
	tcp->ack_seq = bpf_htonl(bpf_ntohl(tcp->seq) + 1);
	tcp->seq = bpf_htonl(cookie);
	/* The 16 bits with the data offset and the flags, here SYN and ACK. */
	((__be16 *)tcp)[6] = bpf_htons(sizeof(*s) / 4 << 12 | 0x12);
	tcp->window = bpf_htons(window);
	tcp->check = 0;
	tcp->urg_ptr = 0;
	s->mss.kind = TCPOPT_MSS;
	s->mss.length = sizeof(s->mss);
	s->mss.mss = bpf_htons(mss);
}

/* Addresses are summed where they stand; size is 4 or 16 bytes for each of the two. */
static __always_inline __sum16 tcp_check(struct synack *s, __be32 *addrs, __u32 addrs_size)
{
	__u64 sum = bpf_htons(IPPROTO_TCP) + bpf_htons(sizeof(*s));

	sum = bpf_csum_diff(NULL, 0, addrs, addrs_size, sum);
	sum = bpf_csum_diff(NULL, 0, (__be32 *)s, sizeof(*s), sum);
	return csum_fold(sum);
}

/* Our answer has one length, whatever options the SYN had. */
static __always_inline bool resize(struct xdp_md *ctx, __u32 length)
{
	return !bpf_xdp_adjust_tail(ctx, (int)(length - (ctx->data_end - ctx->data)));
}

static __always_inline int answer_ipv4(struct xdp_md *ctx, __u32 cookie)
{
	struct synack_ipv4 *reply;
	struct cursor c;
	__be32 addr;

	if (!resize(ctx, sizeof(*reply)))
		return XDP_ABORTED;
	c = frame_start(ctx);
	reply = take(&c, sizeof(*reply));
	if (!reply)
		return XDP_ABORTED;
	swap_macs(&reply->eth);
	addr = reply->ip.saddr;
	reply->ip.saddr = reply->ip.daddr;
	reply->ip.daddr = addr;
	reply->ip.tos = 0;
	reply->ip.tot_len = bpf_htons(sizeof(reply->ip) + sizeof(reply->synack));
	reply->ip.id = 0;
	reply->ip.frag_off = bpf_htons(IPV4_DF);
	reply->ip.ttl = 64;
	reply->ip.check = 0;
	reply->ip.check = csum_ipv4(&reply->ip);
	fill_synack(&reply->synack, cookie, mss_ipv4);
	reply->synack.tcp.check = tcp_check(&reply->synack, (void *)&reply->ip.saddr, 8);
	return XDP_TX;
}

static __always_inline int answer_ipv6(struct xdp_md *ctx, __u32 cookie)
{
	struct synack_ipv6 *reply;
	struct in6_addr addr;
	struct cursor c;

	if (!resize(ctx, sizeof(*reply)))
		return XDP_ABORTED;
	c = frame_start(ctx);
	reply = take(&c, sizeof(*reply));
	if (!reply)
		return XDP_ABORTED;
	swap_macs(&reply->eth);
	addr = reply->ip6.saddr;
	reply->ip6.saddr = reply->ip6.daddr;
	reply->ip6.daddr = addr;
	reply->ip6.payload_len = bpf_htons(sizeof(reply->synack));
	reply->ip6.hop_limit = 64;
	fill_synack(&reply->synack, cookie, mss_ipv6);
	reply->synack.tcp.check = tcp_check(&reply->synack, (void *)&reply->ip6.saddr, 32);
	return XDP_TX;
}

/* The helper reads the MSS option of the SYN, so it wants the header with its options; a copy has
 * a place for the longest one, which the frame may not.
 */
static __always_inline int send_cookie(struct xdp_md *ctx, struct tcphdr *tcp, struct iphdr *ip,
				       struct ipv6hdr *ip6)
{
	__u32 offset = (void *)tcp - (void *)(long)ctx->data;
	__u32 length = tcp->doff * 4;
	__u8 header[TCP_MAX_HEADER];
	__s64 cookie;

	if (length < sizeof(*tcp) || bpf_xdp_load_bytes(ctx, offset, header, length))
		return verdict(RESULT_NO_COOKIE, XDP_DROP);
	if (ip)
		cookie = bpf_tcp_raw_gen_syncookie_ipv4(ip, (void *)header, length);
	else
		cookie = bpf_tcp_raw_gen_syncookie_ipv6(ip6, (void *)header, length);
	if (cookie < 0)
		return verdict(RESULT_NO_COOKIE, XDP_DROP);
	count(&results, RESULT_COOKIE_SENT);
	return ip ? answer_ipv4(ctx, cookie) : answer_ipv6(ctx, cookie);
}

static __always_inline int check_cookie(struct tcphdr *tcp, struct iphdr *ip, struct ipv6hdr *ip6,
					const struct flow_key *flow)
{
	__u32 seen = 1;
	long bad;

	bad = ip ? bpf_tcp_raw_check_syncookie_ipv4(ip, tcp) :
		   bpf_tcp_raw_check_syncookie_ipv6(ip6, tcp);
	if (bad)
		return verdict(RESULT_COOKIE_BAD, XDP_DROP);
	bpf_map_update_elem(&verified, flow, &seen, BPF_ANY);
	return verdict(RESULT_COOKIE_GOOD, XDP_PASS);
}

static __always_inline int judge(struct xdp_md *ctx, struct tcphdr *tcp, struct iphdr *ip,
				 struct ipv6hdr *ip6, const struct flow_key *flow)
{
	if (tcp->syn && !tcp->ack && !tcp->rst && !tcp->fin)
		return send_cookie(ctx, tcp, ip, ip6);
	if (bpf_map_lookup_elem(&verified, flow)) {
		if (tcp->rst)
			bpf_map_delete_elem(&verified, flow);
		return verdict(RESULT_VERIFIED, XDP_PASS);
	}
	if (tcp->ack && !tcp->syn && !tcp->rst)
		return check_cookie(tcp, ip, ip6, flow);
	return verdict(RESULT_REFUSED, XDP_DROP);
}

SEC("xdp")
int syncookie(struct xdp_md *ctx)
{
	struct cursor c = frame_start(ctx);
	struct flow_key flow = {};
	struct tcphdr *tcp;
	__be16 proto;

	if (!take_eth(&c, &proto))
		return verdict(RESULT_OTHER, XDP_PASS);
	if (proto == bpf_htons(ETH_P_IP)) {
		struct iphdr *ip = take(&c, sizeof(*ip));

		/* With options there would be no room for our answer's layout. */
		if (!ip || ip->version != 4 || ip->ihl != 5 || ip->protocol != IPPROTO_TCP ||
		    ip->frag_off & bpf_htons(IPV4_OFFSET | IPV4_MF))
			return verdict(RESULT_OTHER, XDP_PASS);
		tcp = take(&c, sizeof(*tcp));
		if (!tcp || !is_protected(bpf_ntohs(tcp->dest)))
			return verdict(RESULT_OTHER, XDP_PASS);
		flow_of(ctx, &flow);
		return judge(ctx, tcp, ip, NULL, &flow);
	}
	if (proto == bpf_htons(ETH_P_IPV6)) {
		struct ipv6hdr *ip6 = take_ipv6(&c);

		if (!ip6 || ip6->nexthdr != IPPROTO_TCP)
			return verdict(RESULT_OTHER, XDP_PASS);
		tcp = take(&c, sizeof(*tcp));
		if (!tcp || !is_protected(bpf_ntohs(tcp->dest)))
			return verdict(RESULT_OTHER, XDP_PASS);
		flow_of(ctx, &flow);
		return judge(ctx, tcp, NULL, ip6, &flow);
	}
	return verdict(RESULT_OTHER, XDP_PASS);
}

char _license[] SEC("license") = "Dual BSD/GPL";

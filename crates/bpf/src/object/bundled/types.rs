//! The bundled types: what Linux 6.18 on x86-64 shows of them in its BTF. [`super`] explains the notation.

/// Integers: name, bytes, `s` if signed; `c` a character and `b` a bool.
pub(super) const INTS: &[(&str, u32, char)] = &[
    ("char", 1, 's'),
    ("unsigned char", 1, 'u'),
    ("short", 2, 's'),
    ("short unsigned int", 2, 'u'),
    ("int", 4, 's'),
    ("unsigned int", 4, 'u'),
    ("long int", 8, 's'),
    ("long unsigned int", 8, 'u'),
    ("long long int", 8, 's'),
    ("long long unsigned int", 8, 'u'),
    ("_Bool", 1, 'b'),
];

/// Typedefs: name and what it stands for.
pub(super) const TYPEDEFS: &[(&str, &str)] = &[
    ("bool", "_Bool"),
    ("__s8", "char"),
    ("__u8", "unsigned char"),
    ("__s16", "short"),
    ("__u16", "short unsigned int"),
    ("__s32", "int"),
    ("__u32", "unsigned int"),
    ("__s64", "long long int"),
    ("__u64", "long long unsigned int"),
    ("s8", "__s8"),
    ("u8", "__u8"),
    ("s16", "__s16"),
    ("u16", "__u16"),
    ("s32", "__s32"),
    ("u32", "__u32"),
    ("s64", "__s64"),
    ("u64", "__u64"),
    ("uchar", "unsigned char"),
    ("ushort", "short unsigned int"),
    ("uint", "unsigned int"),
    ("ulong", "long unsigned int"),
    ("__be16", "__u16"),
    ("__be32", "__u32"),
    ("__be64", "__u64"),
    ("__sum16", "__u16"),
    ("__wsum", "__u32"),
    ("netdev_features_t", "u64"),
    ("xdp_features_t", "u32"),
    ("netmem_ref", "ulong"),
];

/// Structs, unions and enums.
pub(super) const TYPES: &str = "
struct xdp_md { __u32 data data_end data_meta ingress_ifindex rx_queue_index egress_ifindex }
struct xdp_buff {
  *void data data_end data_meta data_hard_start ; *xdp_rxq_info rxq ; *xdp_txq_info txq
  union { struct { u32 frame_sz flags } ; u64 frame_sz_flags_init }
}
struct xdp_frame {
  *void data ; u32 len headroom metasize ; xdp_mem_type mem_type:32 ; *net_device dev_rx
  u32 frame_sz flags
}
struct xdp_mem_info { u32 type id }
struct xdp_rxq_info 64 {
  *net_device dev ; u32 queue_index reg_state ; xdp_mem_info mem ; u32 frag_size
}
struct xdp_txq_info { *net_device dev }
enum xdp_action { XDP_ABORTED XDP_DROP XDP_PASS XDP_TX XDP_REDIRECT }
enum xdp_mem_type {
  MEM_TYPE_PAGE_SHARED MEM_TYPE_PAGE_ORDER0 MEM_TYPE_PAGE_POOL MEM_TYPE_XSK_BUFF_POOL MEM_TYPE_MAX
}
enum xdp_buff_flags {
  XDP_FLAGS_HAS_FRAGS=1 XDP_FLAGS_FRAGS_PF_MEMALLOC=2 XDP_FLAGS_FRAGS_UNREADABLE=4
}
enum xdp_rss_hash_type {
  XDP_RSS_L3_IPV4=1 XDP_RSS_L3_IPV6=2 XDP_RSS_L3_DYNHDR=4 XDP_RSS_L4=8 XDP_RSS_L4_TCP=16 XDP_RSS_L4_UDP=32
  XDP_RSS_L4_SCTP=64 XDP_RSS_L4_IPSEC=128 XDP_RSS_L4_ICMP=256
  XDP_RSS_TYPE_NONE=0 XDP_RSS_TYPE_L2=0 XDP_RSS_TYPE_L3_IPV4=1 XDP_RSS_TYPE_L3_IPV6=2
  XDP_RSS_TYPE_L3_IPV4_OPT=5 XDP_RSS_TYPE_L3_IPV6_EX=6 XDP_RSS_TYPE_L4_ANY=8
  XDP_RSS_TYPE_L4_IPV4_TCP=25 XDP_RSS_TYPE_L4_IPV4_UDP=41 XDP_RSS_TYPE_L4_IPV4_SCTP=73
  XDP_RSS_TYPE_L4_IPV4_IPSEC=137 XDP_RSS_TYPE_L4_IPV4_ICMP=265
  XDP_RSS_TYPE_L4_IPV6_TCP=26 XDP_RSS_TYPE_L4_IPV6_UDP=42 XDP_RSS_TYPE_L4_IPV6_SCTP=74
  XDP_RSS_TYPE_L4_IPV6_IPSEC=138 XDP_RSS_TYPE_L4_IPV6_ICMP=266
  XDP_RSS_TYPE_L4_IPV6_TCP_EX=30 XDP_RSS_TYPE_L4_IPV6_UDP_EX=46 XDP_RSS_TYPE_L4_IPV6_SCTP_EX=78
}
struct skb_frag { netmem_ref netmem ; uint len offset }
struct skb_shared_info 320 {
  __u8 flags meta_len nr_frags tx_flags ; ushort gso_size gso_segs ; *sk_buff frag_list@8
  uint gso_type@24 ; u32 tskey
  union @40 { struct { u32 xdp_frags_size xdp_frags_truesize } ; *void destructor_arg }
  skb_frag frags[17]
}
struct list_head { *list_head next prev }
struct ns_common 80 { uint inum@24 }
struct net 4288 { u32 ifindex@12 ; ns_common ns@152 ; *net_device loopback_dev@440 ; u64 net_cookie@4160 }
struct possible_net_t { *net net }
struct net_device 2496 {
  *net_device_ops netdev_ops@8 ; uint real_num_tx_queues@40 ; uint mtu@56 ; ushort needed_headroom
  ulong state@168 ; uint flags ; ushort hard_header_len ; netdev_features_t features
  *bpf_prog xdp_prog@200 ; int ifindex@224 ; uint real_num_rx_queues ; *netdev_rx_queue _rx
  possible_net_t nd_net@264 ; char name[16]@280 ; xdp_features_t xdp_features@448
  *xdp_metadata_ops xdp_metadata_ops@456 ; ushort gflags@472 needed_tailroom
  netdev_features_t hw_features wanted_features vlan_features
  uint min_mtu@528 max_mtu ; ushort type ; uchar min_header_len name_assign_type ; int group
  uint operstate@768 ; uchar link_mode if_port dma perm_addr[32] addr_assign_type addr_len
  ushort dev_id@814 dev_port ; int irq ; uint promiscuity@936 allmulti ; *uchar dev_addr@968
  uint num_rx_queues xdp_zc_max_segs ; uchar broadcast[32]@1000 ; uint num_tx_queues@1056
  uint tx_queue_len@1072 ; u8 reg_state@1312 ; bool up@2392
}

struct in_addr { __be32 s_addr }
struct in6_addr { union { __u8 u6_addr8[16] ; __be16 u6_addr16[8] ; __be32 u6_addr32[4] } =in6_u }
struct ethhdr { uchar h_dest[6] h_source[6] ; __be16 h_proto }
struct vlan_hdr { __be16 h_vlan_TCI h_vlan_encapsulated_proto }
struct vlan_ethhdr {
  union {
    struct { uchar h_dest[6] h_source[6] }
    struct { uchar h_dest[6] h_source[6] } =addrs
  }
  __be16 h_vlan_proto h_vlan_TCI h_vlan_encapsulated_proto
}
struct arphdr { __be16 ar_hrd ar_pro ; uchar ar_hln ar_pln ; __be16 ar_op }
struct iphdr {
  __u8 ihl:4 version:4 tos ; __be16 tot_len id frag_off ; __u8 ttl protocol ; __sum16 check
  union { struct { __be32 saddr daddr } ; struct { __be32 saddr daddr } =addrs }
}
struct ipv6hdr {
  __u8 priority:4 version:4 flow_lbl[3] ; __be16 payload_len ; __u8 nexthdr hop_limit
  union { struct { in6_addr saddr daddr } ; struct { in6_addr saddr daddr } =addrs }
}
struct ipv6_opt_hdr { __u8 nexthdr hdrlen }
struct frag_hdr { __u8 nexthdr reserved ; __be16 frag_off ; __be32 identification }
struct gre_base_hdr { __be16 flags protocol }
struct tcphdr {
  __be16 source dest ; __be32 seq ack_seq
  __u16 ae:1 res1:3 doff:4 fin:1 syn:1 rst:1 psh:1 ack:1 urg:1 ece:1 cwr:1
  __be16 window ; __sum16 check ; __be16 urg_ptr
}
struct udphdr { __be16 source dest len ; __sum16 check }
struct icmphdr {
  __u8 type code ; __sum16 checksum
  union {
    struct { __be16 id sequence } =echo
    __be32 gateway
    struct { __be16 __unused mtu } =frag
    __u8 reserved[4]
  } =un
}
struct icmpv6_echo { __be16 identifier sequence }
struct icmpv6_nd_advt { __u32 reserved:5 override:1 solicited:1 router:1 reserved2:24 }
struct icmpv6_nd_ra {
  __u8 hop_limit reserved:3 router_pref:2 home_agent:1 other:1 managed:1 ; __be16 rt_lifetime
}
struct icmp6hdr {
  __u8 icmp6_type icmp6_code ; __sum16 icmp6_cksum
  union {
    __be32 un_data32[1] ; __be16 un_data16[2] ; __u8 un_data8[4]
    icmpv6_echo u_echo ; icmpv6_nd_advt u_nd_advt ; icmpv6_nd_ra u_nd_ra
  } =icmp6_dataun
}

struct bpf_fib_lookup {
  __u8 family l4_protocol ; __be16 sport dport ; union { __u16 tot_len mtu_result } ; __u32 ifindex
  union { __u8 tos ; __be32 flowinfo ; __u32 rt_metric }
  union { __be32 ipv4_src ; __u32 ipv6_src[4] }
  union { __be32 ipv4_dst ; __u32 ipv6_dst[4] }
  union { struct { __be16 h_vlan_proto h_vlan_TCI } ; __u32 tbid }
  union { struct { __u32 mark } ; struct { __u8 smac[6] dmac[6] } }
}
struct bpf_sock {
  __u32 bound_dev_if family type protocol mark priority src_ip4 src_ip6[4] src_port ; __be16 dst_port
  __u32 dst_ip4@52 dst_ip6[4] state ; __s32 rx_queue_mapping
}
struct bpf_sock_tuple {
  union {
    struct { __be32 saddr daddr ; __be16 sport dport } =ipv4
    struct { __be32 saddr[4] daddr[4] ; __be16 sport dport } =ipv6
  }
}
struct bpf_tcp_sock {
  __u32 snd_cwnd srtt_us rtt_min snd_ssthresh rcv_nxt snd_nxt snd_una mss_cache ecn_flags rate_delivered
  rate_interval_us packets_out retrans_out total_retrans segs_in data_segs_in segs_out data_segs_out
  lost_out sacked_out ; __u64 bytes_received bytes_acked ; __u32 dsack_dups delivered delivered_ce
  icsk_retransmits
}
struct bpf_xdp_sock { __u32 queue_id }
struct bpf_devmap_val { __u32 ifindex ; union { int fd ; __u32 id } =bpf_prog }
struct bpf_cpumap_val { __u32 qsize ; union { int fd ; __u32 id } =bpf_prog }
struct bpf_flow_keys {
  __u16 nhoff thoff addr_proto ; __u8 is_frag is_first_frag is_encap ip_proto ; __be16 n_proto sport dport
  union { struct { __be32 ipv4_src ipv4_dst } ; struct { __u32 ipv6_src[4] ipv6_dst[4] } }
  __u32 flags ; __be32 flow_label
}
struct bpf_spin_lock { __u32 val }
struct bpf_res_spin_lock { u32 val }
struct bpf_timer { __u64 __opaque[2] }
struct bpf_wq { __u64 __opaque[2] }
struct bpf_dynptr { __u64 __opaque[2] }
struct bpf_list_head { __u64 __opaque[2] }
struct bpf_list_node { __u64 __opaque[3] }
struct bpf_rb_root { __u64 __opaque[2] }
struct bpf_rb_node { __u64 __opaque[4] }
struct bpf_refcount { __u32 __opaque[1] }
struct bpf_iter_num { __u64 __opaque[1] }
struct bpf_iter_bits { __u64 __opaque[2] }
struct bpf_ct_opts { s32 netns_id error ; u8 l4proto dir ; u16 ct_zone_id ; u8 ct_zone_dir reserved[3] }
struct bpf_map 296 {
  bpf_map_type map_type@64 ; u32 key_size value_size max_entries ; u64 map_extra ; u32 map_flags id
  int numa_node@104 ; u32 btf_key_type_id btf_value_type_id ; char name[16]@136 ; bool frozen@257
}
";

#!/bin/sh
# Makes the captures of this folder anew: real programs talk in three network namespaces, and
# tcpdump listens on the router's side of the client's link.
#
#     client 10.0.0.2        router 10.0.0.1 | 192.0.2.1        server 192.0.2.2
#     2001:db8:a::2          2001:db8:a::1   | 2001:db8:b::1    2001:db8:b::2
#
# A second link, "trunk", joins client and server directly and carries the tagged frames.
#
# Needs root, and the Debian packages iproute2 iputils-ping ethtool tcpdump wireshark-common curl
# iperf3 dnsmasq-base bind9-dnsutils python3. Namespaces are named after this process and are
# removed when it ends, however it ends.
set -eu

cd "$(dirname "$0")"
# Debian's programs, whatever else stands in front of them on this machine.
PATH=/usr/sbin:/usr/bin:/sbin:/bin
[ "$(id -u)" = 0 ] || { echo "make.sh: must be root, for network namespaces" >&2; exit 1; }

tmp=$(mktemp -d)
C=ebpcap-c-$$ R=ebpcap-r-$$ S=ebpcap-s-$$

cleanup() {
	for ns in "$C" "$R" "$S"; do
		for pid in $(ip netns pids "$ns" 2>/dev/null); do
			kill "$pid" 2>/dev/null || true
		done
		ip netns del "$ns" 2>/dev/null || true
	done
	rm -rf "$tmp"
}
trap cleanup EXIT
trap 'exit 1' INT TERM HUP

in_ns() {
	ip netns exec "$@"
}

# start NS COMMAND...: in the background until the script ends.
start() {
	ip netns exec "$@" >>"$tmp/log" 2>&1 &
	last=$!
}

# await COMMAND...: until it succeeds, which it does within 10 seconds or not at all.
await() {
	tries=100
	until "$@" >/dev/null 2>&1; do
		tries=$((tries - 1))
		[ $tries -gt 0 ] || { echo "make.sh: waited in vain: $*" >&2; cat "$tmp/log" >&2; exit 1; }
		sleep 0.1
	done
}

is_listening() { # NS ADDR:PORT
	in_ns "$1" ss -Htln src "$2" | grep -q .
}


set_sysctl() { # NS PATH VALUE
	in_ns "$1" sh -c "echo $3 >/proc/sys/$2"
}

# No offloads: what is captured is then what a wire would carry, segment by segment and with its
# checksums filled in.
plain() { # NS DEV
	in_ns "$1" ethtool -K "$2" tx off rx off sg off tso off gso off gro off >/dev/null
}

link() { # NS DEV NUMBER NS DEV NUMBER: fixed MAC addresses, the numbers are their last bytes
	ip -n "$1" link add "$2" address "02:00:00:00:00:$3" type veth \
		peer name "$5" netns "$4" address "02:00:00:00:00:$6"
	plain "$1" "$2"
	plain "$4" "$5"
	# Link-local addresses follow from the MAC addresses, not from a secret of the machine.
	set_sysctl "$1" "net/ipv6/conf/$2/addr_gen_mode" 0
	set_sysctl "$4" "net/ipv6/conf/$5/addr_gen_mode" 0
}

build_network() {
	for ns in "$C" "$R" "$S"; do
		ip netns add "$ns"
		ip -n "$ns" link set lo up
	done
	link "$C" eth0 02 "$R" lan 01
	link "$R" wan 03 "$S" eth0 04
	link "$C" trunk 12 "$S" trunk 14
	set_sysctl "$R" net/ipv4/ip_forward 1
	set_sysctl "$R" net/ipv6/conf/all/forwarding 1
	ip -n "$C" addr add 10.0.0.2/24 dev eth0
	ip -n "$R" addr add 10.0.0.1/24 dev lan
	ip -n "$R" addr add 192.0.2.1/24 dev wan
	ip -n "$S" addr add 192.0.2.2/24 dev eth0
	ip -n "$C" addr add 2001:db8:a::2/64 dev eth0 nodad
	ip -n "$R" addr add 2001:db8:a::1/64 dev lan nodad
	ip -n "$R" addr add 2001:db8:b::1/64 dev wan nodad
	ip -n "$S" addr add 2001:db8:b::2/64 dev eth0 nodad
	for end in "$C eth0" "$R lan" "$R wan" "$S eth0" "$C trunk" "$S trunk"; do
		ip -n "${end% *}" link set "${end#* }" up
	done
	ip -n "$C" route add default via 10.0.0.1
	ip -n "$C" route add default via 2001:db8:a::1
	ip -n "$S" route add default via 192.0.2.1
	ip -n "$S" route add default via 2001:db8:b::1
	# For the answers that only a router gives.
	ip -n "$R" route add unreachable 203.0.113.0/24
	ip -n "$R" route add prohibit 2001:db8:dead::/48
	# Duplicate detection of the link-local addresses is over then.
	sleep 3
}

flush_neighbours() {
	in_ns "$C" ip neigh flush dev eth0
	in_ns "$R" ip neigh flush dev lan
}

# capture FILE NS DEV [TCPDUMP OPTIONS]: starts listening, `stop` ends it.
capture() {
	file=$1
	rm -f "$tmp/tcpdump"
	ip netns exec "$2" tcpdump -Z root -i "$3" -s 0 -U --immediate-mode -n -w "$tmp/$file" \
		${4:+"$4"} ${5:+"$5"} ${6:+"$6"} >"$tmp/tcpdump" 2>&1 &
	listener=$!
	await grep -q 'listening on' "$tmp/tcpdump"
	sleep 0.2
}

stop() {
	sleep 0.5
	kill -INT "$listener" 2>/dev/null || true
	wait "$listener" || true
}

# Moves a capture here; pcapng files get no word about the machine that made them.
keep() { # FILE IN $tmp, FILE HERE
	case $2 in
	*.pcapng) editcap -F pcapng "$tmp/$1" "$tmp/ng" && python3 anonymous.py "$tmp/ng" "$2" ;;
	*) cp "$tmp/$1" "$2" ;;
	esac
}

serve_web() {
	mkdir "$tmp/www"
	printf '<!doctype html>\n<title>Earlybird</title>\n<p>The early bird catches the frame.\n' \
		>"$tmp/www/index.html"
	seq -s ' ' 1 3500 >"$tmp/www/numbers.txt"
	seq -s ' ' 1 9500 >"$tmp/www/more.txt"
	# "::" takes IPv4 too, and every address that the server gets later.
	start "$S" python3 -m http.server --bind :: --directory "$tmp/www" 80
	await is_listening "$S" :80
}

serve_names() {
	start "$S" dnsmasq --keep-in-foreground --conf-file=/dev/null --no-resolv --no-hosts \
		--user=root --pid-file="$tmp/dnsmasq.pid" --listen-address=192.0.2.2 \
		--listen-address=2001:db8:b::2 --bind-interfaces --local=/example/ \
		--host-record=www.example,192.0.2.2,2001:db8:b::2 \
		--mx-host=example,mail.example,10 --cname=web.example,www.example \
		--txt-record=example,"a text of some length to make the answer a little longer"
	await is_listening "$S" 192.0.2.2:53
}

get() {
	in_ns "$C" curl -s "$@" >/dev/null || true
}

ask() {
	in_ns "$C" dig +tries=1 +time=1 "$@" >/dev/null || true
}

ping_from_client() {
	in_ns "$C" ping -q -i 0.05 "$@" >/dev/null 2>&1 || true
}

send_udp() { # FAMILY ADDR BYTES: one datagram, to a port where nobody listens
	in_ns "$C" python3 -c "
import socket
socket.socket(socket.$1, socket.SOCK_DGRAM).sendto(bytes(range(250)) * ($3 // 250), ('$2', 7777))"
}

web() {
	flush_neighbours
	capture web "$R" lan
	get http://192.0.2.2/ http://192.0.2.2/numbers.txt http://192.0.2.2/absent
	get 'http://[2001:db8:b::2]/' 'http://[2001:db8:b::2]/numbers.txt'
	# To this capture's mixture belong a look-up, a ping, and two ports where nobody listens.
	ask @192.0.2.2 www.example
	ping_from_client -c 2 192.0.2.2
	get http://192.0.2.2:23/ http://192.0.2.2:8080/
	stop
	keep web web.pcapng
}

ping4() {
	flush_neighbours
	capture ping4 "$R" lan
	ping_from_client -c 3 192.0.2.2
	ping_from_client -c 2 -s 1400 192.0.2.2
	ping_from_client -c 2 -s 0 -t 3 10.0.0.1
	ping_from_client -c 2 -R 192.0.2.2
	ping_from_client -c 2 -b 10.0.0.255
	stop
	keep ping4 ping4.pcap
}

ping6() {
	flush_neighbours
	capture ping6 "$R" lan --time-stamp-precision=nano
	# Down and up again: multicast reports, duplicate detection, router solicitation.
	ip -n "$C" link set eth0 down
	ip -n "$C" link set eth0 up
	sleep 2
	ip -n "$C" addr replace 2001:db8:a::2/64 dev eth0
	ip -n "$C" route replace default via 10.0.0.1
	sleep 2
	ip -n "$C" route replace default via 2001:db8:a::1
	ping_from_client -c 3 2001:db8:b::2
	ping_from_client -c 2 -s 1300 2001:db8:a::1
	ping_from_client -c 2 ff02::1%eth0
	stop
	keep ping6 ping6.pcap
}

arp() {
	flush_neighbours
	capture arp "$R" lan arp
	ping_from_client -c 1 10.0.0.1
	# Nobody has this one: three questions without an answer.
	ping_from_client -c 1 -W 4 10.0.0.77
	# An address that is new announces itself.
	set_sysctl "$C" net/ipv4/conf/eth0/arp_notify 1
	ip -n "$C" link set eth0 down
	ip -n "$C" link set eth0 up
	sleep 1
	ip -n "$C" addr replace 2001:db8:a::2/64 dev eth0 nodad
	ip -n "$C" route replace default via 10.0.0.1
	ip -n "$C" route replace default via 2001:db8:a::1
	stop
	keep arp arp.pcap
}

dns() {
	capture dns "$R" lan port 53
	ask @192.0.2.2 www.example A
	ask @192.0.2.2 www.example AAAA
	ask @192.0.2.2 web.example A
	ask @192.0.2.2 example MX
	ask @192.0.2.2 +noedns example TXT
	ask @192.0.2.2 absent.example A
	ask @192.0.2.2 +tcp www.example A
	ask @2001:db8:b::2 www.example A
	ask @2001:db8:b::2 +tcp example TXT
	stop
	python3 byteswap.py "$tmp/dns" dns.pcap
}

iperf() {
	start "$S" iperf3 -s
	server=$last
	await is_listening "$S" :5201
	capture tcp "$R" lan tcp
	in_ns "$C" iperf3 -c 192.0.2.2 -n 48K -l 8K >/dev/null
	stop
	keep tcp iperf_tcp.pcapng
	sleep 0.5
	capture udp "$R" lan --time-stamp-precision=nano udp
	in_ns "$C" iperf3 -c 2001:db8:b::2 -u -b 4M -n 36K -l 1200 >/dev/null
	stop
	keep udp iperf_udp.pcap
	kill "$server"
}

# wires NAME KIND NET4 NET6 OPTIONS: a tap or tun device of wire.py on both sides, with address 1
# in both networks for the client and 2 for the server; "-" is no network. The word PEER in the
# options becomes the other side's address.
wires() {
	name=$1 kind=$2 net4=$3 net6=$4
	shift 4
	start "$C" python3 wire.py "$kind" "$name" $(echo "$*" | sed s/PEER/192.0.2.2/)
	near=$last
	start "$S" python3 wire.py "$kind" "$name" $(echo "$*" | sed s/PEER/10.0.0.2/)
	far=$last
	await ip -n "$C" link show dev "$name"
	await ip -n "$S" link show dev "$name"
	for ns in "$C" "$S"; do
		host=$([ "$ns" = "$C" ] && echo 1 || echo 2)
		[ "$kind" = tun ] || ip -n "$ns" link set "$name" address "02:00:00:00:01:0$host"
		ip -n "$ns" link set "$name" mtu 1400 up
		[ "$net4" = - ] || ip -n "$ns" addr add "$net4.$host/24" dev "$name"
		[ "$net6" = - ] || ip -n "$ns" addr add "$net6::$host/64" dev "$name" nodad
	done
	sleep 2
}

unwire() {
	kill "$near" "$far"
	wait "$near" "$far" 2>/dev/null || true
}

vlan() {
	wires vlan100 tap 198.51.100 2001:db8:100 --link trunk --tag 8100:100
	capture vlan "$C" trunk
	ping_from_client -c 3 198.51.100.2
	ping_from_client -c 2 2001:db8:100::2
	get http://198.51.100.2/
	stop
	unwire
	keep vlan vlan.pcap
}

qinq() {
	wires qinq tap 198.51.100 2001:db8:100 --link trunk --tag 88a8:200 --tag 8100:8292
	capture qinq "$C" trunk
	ping_from_client -c 3 198.51.100.2
	ping_from_client -c 2 2001:db8:100::2
	get http://198.51.100.2/
	stop
	unwire
	keep qinq qinq-little.pcapng
	python3 byteswap.py qinq-little.pcapng qinq.pcapng
	rm qinq-little.pcapng
}

ipip() {
	wires ipip0 tun 198.51.100 - --peer PEER --proto ipip
	capture ipip "$R" lan
	ping_from_client -c 3 198.51.100.2
	get http://198.51.100.2/
	stop
	unwire
	keep ipip ipip.pcap
}

gre() {
	capture gre "$R" lan --time-stamp-precision=nano proto 47
	wires gre0 tun 198.51.100 2001:db8:100 --peer PEER --proto gre
	ping_from_client -c 3 198.51.100.2
	ping_from_client -c 2 2001:db8:100::2
	unwire
	wires gre1 tun 198.51.100 2001:db8:100 --peer PEER --proto gre --key 42
	ping_from_client -c 2 198.51.100.2
	ping_from_client -c 2 2001:db8:100::2
	unwire
	wires gretap0 tap 198.51.100 - --peer PEER --proto gre
	ping_from_client -c 2 198.51.100.2
	unwire
	stop
	keep gre gre.pcap
}

sixinfour() {
	wires sit0 tun - 2001:db8:100 --peer PEER --proto 6in4
	capture sit "$R" lan
	ping_from_client -c 3 2001:db8:100::2
	get 'http://[2001:db8:100::2]/'
	stop
	unwire
	keep sit 6in4.pcap
}

fragments() {
	capture fragments "$R" lan
	ping_from_client -c 3 -s 4000 192.0.2.2
	ping_from_client -c 3 -s 4000 2001:db8:b::2
	# UDP in fragments: only the first one has ports.
	send_udp AF_INET 192.0.2.2 3000
	stop
	keep fragments fragments.pcapng
}

unreachable() {
	flush_neighbours
	capture unreachable "$R" lan
	get http://192.0.2.2:23/
	get http://192.0.2.2:81/
	get 'http://[2001:db8:b::2]:81/'
	# Nobody listens on this port, nobody has these networks, and two hops are one too many.
	ask -p 5353 @192.0.2.2 www.example
	ask -p 5353 @2001:db8:b::2 www.example
	ping_from_client -c 2 -W 1 203.0.113.7
	ping_from_client -c 2 -W 1 2001:db8:dead::7
	ping_from_client -c 2 -W 1 -t 1 192.0.2.2
	ping_from_client -c 2 -W 1 -t 1 2001:db8:b::2
	# Longer than the path allows, and forbidden to be cut: "fragmentation needed".
	ip -n "$R" link set wan mtu 1300
	ping_from_client -c 2 -W 1 -M do -s 1372 192.0.2.2
	ping_from_client -c 2 -W 1 -M do -s 1352 2001:db8:b::2
	ip -n "$R" link set wan mtu 1500
	stop
	keep unreachable unreachable.pcap
}

jumbo() {
	for end in "$C eth0" "$R lan" "$R wan" "$S eth0"; do
		ip -n "${end% *}" link set "${end#* }" mtu 9000
	done
	ip -n "$C" route flush cache
	capture jumbo "$R" lan --time-stamp-precision=nano
	ping_from_client -c 2 -s 8972 192.0.2.2
	ping_from_client -c 1 -s 5000 2001:db8:b::2
	send_udp AF_INET6 2001:db8:b::2 8000
	get http://192.0.2.2/more.txt
	stop
	keep jumbo jumbo.pcapng
}

# Two bridges find out which of them is the root: IEEE 802.3 frames with a length where others
# have a type. And one of them asks who listens to which group.
bridge() {
	for ns in "$C" "$S"; do
		ip -n "$ns" link add br0 type bridge stp_state 1 hello_time 100 forward_delay 400 \
			mcast_querier 1 mcast_startup_query_interval 100
		ip -n "$ns" link set trunk master br0
	done
	capture bridge "$C" trunk
	ip -n "$C" link set br0 up
	ip -n "$S" link set br0 up
	sleep 4
	stop
	ip -n "$C" link del br0
	ip -n "$S" link del br0
	keep bridge bridge.pcap
}

build_network
serve_web
serve_names
for each in web ping4 arp dns iperf vlan qinq bridge ipip gre sixinfour fragments unreachable ping6 jumbo; do
	echo "$each"
	"$each"
done
python3 odd.py odd.pcap

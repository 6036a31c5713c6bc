package capture

import (
	"fmt"
	"net/netip"
	"regexp"
	"strings"
)

// maxExpression bounds a filter expression, in bytes. (Linux takes 128 KiB for
// one argument of a program.)
const maxExpression = 32 << 10

// CheckExpression refuses a filter expression that would have libpcap ask the
// network for a name's meaning: it may take seconds, tell others whom we watch,
// and mean something else tomorrow. Names of services and protocols are looked
// up in local files and are welcome. Whether the expression makes sense is for
// libpcap to say.
//
// The rules are those of libpcap's scanner.l and grammar.y: a word that is
// neither keyword nor number is looked up as what the last qualifier before it
// says, where a closing parenthesis restores the qualifier that was in force
// at the opening one.
func CheckExpression(expression string) error {
	if len(expression) > maxExpression {
		return fmt.Errorf("filter is %d bytes long; at most %d make sense", len(expression), maxExpression)
	}
	if strings.ContainsRune(expression, 0) {
		return fmt.Errorf("filter %.200q contains a NUL", expression)
	}
	byAddress := false // the last qualifier has words looked up as hosts or networks
	var outer []bool   // byAddress at each open parenthesis
	for _, word := range filterWord.FindAllString(expression, -1) {
		switch kind := filterKeywords[word]; {
		case word == "(":
			outer = append(outer, byAddress)
		case word == ")":
			if len(outer) > 0 {
				byAddress, outer = outer[len(outer)-1], outer[:len(outer)-1]
			}
		case kind == qualifiesAddress:
			byAddress = true
		case kind == qualifiesLocal:
			byAddress = false
		case kind == keyword || !byAddress || isAddress(word):
		default:
			return fmt.Errorf("filter names %q, which would have to be looked up in the network: write the address as a number", word)
		}
	}
	return nil
}

// filterWord finds parentheses, escaped words, and words with addresses of all
// kinds among them. The colon splits words as in tcp[tcpflags:1] only if what
// is around it is no address.
var filterWord = regexp.MustCompile(`[()]|\\[^ !()\n\t]+|[A-Za-z0-9:][A-Za-z0-9:._-]*`)

// filterKind says what a word of libpcap's means for the words behind it.
type filterKind int

const (
	notKeyword filterKind = iota
	keyword
	qualifiesAddress // what follows is a host or a network, also by default
	qualifiesLocal   // what follows is looked up in local tables, if at all
)

var filterKeywords = func() map[string]filterKind {
	kinds := map[string]filterKind{}
	for kind, words := range map[filterKind]string{
		qualifiesAddress: `host net gateway src dst addr1 address1 addr2 address2 addr3 address3 addr4 address4 ra ta`,
		qualifiesLocal: `port portrange proto protochain type subtype dir direction on ifname rset ruleset reason
			action llc batadv`,
		keyword: `aarp ah and arp atalk bcc broadcast byte carp clnp connectmsg csnp decnet dpc es-is esis esp ether
			fddi fisu geneve greater hdpc hfisu hlssu hmsu hopc hsio hsls icmp icmp6 ifindex igmp igrp iih ilmic
			inbound ip ip6 ipx is-is isis iso l1 l2 lane lat len length less link lsp lssu lsu mask metac
			metaconnect mopdl moprc mpls msu multicast netbeui not oam oamf4 oamf4ec oamf4sc opc or outbound pim
			ppp pppoed pppoes psnp radio rarp rnr rulenum sc sca sctp sio slip sls snp srnr stp subrulenum tcp
			tr udp vci vlan vpi vrrp vxlan wlan
			icmptype icmpcode icmp-echoreply icmp-unreach icmp-sourcequench icmp-redirect icmp-echo
			icmp-routeradvert icmp-routersolicit icmp-timxceed icmp-paramprob icmp-tstamp icmp-tstampreply
			icmp-ireq icmp-ireqreply icmp-maskreq icmp-maskreply
			icmp6type icmp6code icmp6-destinationunreach icmp6-packettoobig icmp6-timeexceeded
			icmp6-parameterproblem icmp6-echo icmp6-echoreply icmp6-multicastlistenerquery
			icmp6-multicastlistenerreportv1 icmp6-multicastlistenerdone icmp6-routersolicit icmp6-routeradvert
			icmp6-neighborsolicit icmp6-neighboradvert icmp6-redirect icmp6-routerrenum
			icmp6-nodeinformationquery icmp6-nodeinformationresponse icmp6-ineighbordiscoverysolicit
			icmp6-ineighbordiscoveryadvert icmp6-multicastlistenerreportv2 icmp6-homeagentdiscoveryrequest
			icmp6-homeagentdiscoveryreply icmp6-mobileprefixsolicit icmp6-mobileprefixadvert
			icmp6-certpathsolicit icmp6-certpathadvert icmp6-multicastrouteradvert
			icmp6-multicastroutersolicit icmp6-multicastrouterterm
			tcpflags tcp-fin tcp-syn tcp-rst tcp-push tcp-ack tcp-urg tcp-ece tcp-cwr`,
	} {
		for _, word := range strings.Fields(words) {
			kinds[word] = kind
		}
	}
	return kinds
}()

// Numbers, dotted addresses and networks, and hardware addresses, as scanner.l
// has them; IPv6 is left to netip.
var numericWord = regexp.MustCompile(`^(` + strings.Join([]string{
	`([0-9]+|0[xX][0-9A-Fa-f]+)(\.([0-9]+|0[xX][0-9A-Fa-f]+)){0,3}`,
	`[0-9A-Fa-f]{1,2}([:.-][0-9A-Fa-f]{1,2}){5}`,
	`[0-9A-Fa-f]{4}\.[0-9A-Fa-f]{4}\.[0-9A-Fa-f]{4}`,
	`[0-9A-Fa-f]{12}`,
}, "|") + `)$`)

func isAddress(word string) bool {
	if numericWord.MatchString(word) {
		return true
	}
	if !strings.Contains(word, ":") {
		return false
	}
	if _, err := netip.ParseAddr(word); err == nil {
		return true
	}
	// An index into a header, as in tcp[tcpflags:1], or something that
	// libpcap will complain about.
	for part := range strings.SplitSeq(word, ":") {
		if part != "" && filterKeywords[part] != keyword && !numericWord.MatchString(part) {
			return false
		}
	}
	return true
}

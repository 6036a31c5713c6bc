package capture

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"golang.org/x/net/bpf"

	"poip/internal/pcap"
)

func TestCheckExpressionRefusesNamesOfHosts(t *testing.T) {
	for _, c := range []struct{ expression, name string }{
		{"host www.example.com", "www.example.com"},
		{"src example", "example"},
		{"dst net branch", "branch"},
		{"tcp port 80 and host example.com", "example.com"},
		{"host 192.0.2.1 or example.com", "example.com"},
		{"gateway router", "router"},
		{"ether host printer", "printer"},
		{`host \tcp`, `\tcp`},
		{"host (192.0.2.1 or b)", "b"},
		{"port http or src http", "http"},
		{"host 192.0.2.1 or (port 80) or foo", "foo"},
		{"host ((port 80 and port 81)) or foo", "foo"},
		{"not src host x", "x"},
		{"ra station", "station"},
		{"host 1.2.3.4.5", "1.2.3.4.5"},
		{"host cafe", "cafe"},
		{"host de:ad:beef:x", "de:ad:beef:x"},
		{"net loopback", "loopback"},
		{"host 21-23", "21-23"},
	} {
		err := CheckExpression(c.expression)
		if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("%q", c.name)) {
			t.Errorf("%s: %v", c.expression, err)
		}
	}
	for _, bad := range []string{"tcp\x00", strings.Repeat("tcp or ", maxExpression)} {
		if CheckExpression(bad) == nil {
			t.Errorf("%.20q was accepted", bad)
		}
	}
}

func TestCheckExpressionKnowsTheLanguage(t *testing.T) {
	for _, expression := range goodExpressions {
		if err := CheckExpression(expression); err != nil {
			t.Errorf("%s: %v", expression, err)
		}
	}
}

// goodExpressions are such as libpcap takes for Ethernet, without the network.
var goodExpressions = []string{
	"", "tcp", "not port 22", "tcp port http or https", "udp portrange 5000-5010", "ip proto \\icmp",
	"host 192.0.2.1", "src or dst host 192.0.2.1", "net 192.0.2.0/24", "net 192.0.2", "net 192.0.2.0 mask 255.255.255.0",
	"host 192.0.2.1 or 192.0.2.2", "host 2001:db8::1", "net 2001:db8::/32", "host ::1", "host ::ffff:192.0.2.1",
	"ether host 00:11:22:33:44:55", "ether src 0:1:2:3:4:5", "ether host 00-11-22-33-44-55",
	"ether host 0011.2233.4455", "ether host 001122334455", "ether host ab:cd:ef:ab:cd:ef",
	"vlan", "vlan 5", "vlan 5 and vlan 6 and host 192.0.2.1", "mpls 100", "pppoes and ip",
	"tcp[tcpflags] & (tcp-syn|tcp-fin) != 0", "tcp[13] & 2 != 0", "ip[0] & 0xf != 5", "tcp[tcpflags:1] = 2",
	"icmp[icmptype] != icmp-echo", "icmp6 and icmp6[icmp6type] == icmp6-echo", "ip6[6:1] = 17",
	"len > 100", "less 100", "greater 1000", "len - 5 > 10", "ether broadcast", "ip multicast", "ether proto 0x88cc",
	"(host 192.0.2.1 and tcp) or (port 53)", "host (192.0.2.1 or 192.0.2.2) and not arp",
	"ip host 192.0.2.1 and not (tcp port 80 or udp port domain)", "stp", "iso proto \\esis", "llc i",
	"inbound", "outbound and tcp", "net 10", "host 10.1", "src net 10.0.0.0/8 and dst port 443",
	"geneve and tcp", "port 80 && !arp || icmp",
}

func TestCompileTakesTheLanguage(t *testing.T) {
	for _, expression := range goodExpressions {
		// For RAW, so that no interface is wanted; some of it is only for Ethernet.
		program, err := Compile(context.Background(), expression, "lo", pcap.LinkEthernet, 1000)
		needsInterface := mentionsVLAN(expression) || strings.Contains(expression, "bound")
		if err != nil && !needsInterface {
			t.Errorf("%s: %v", expression, err)
		}
		if err == nil && (program == nil) != (expression == "") {
			t.Errorf("%s: %d instructions", expression, len(program))
		}
	}
}

func TestCompileRefusesInLibpcapsWords(t *testing.T) {
	for expression, words := range map[string]string{
		"foo bar":                   "syntax error",
		"tcp and":                   "syntax error",
		"port nosuchservice":        "'nosuchservice'",
		"ip proto 700 and tcp[":     "syntax error",
		"host 300.1.1.1":            "300.1.1.1",
		"ether host 00:11:22:33:44": "bogus ethernet address",
		"-w /tmp/poip-was-here":     "syntax error",
		"tcp port 80 and @":         "syntax error",
		"wlan type mgt":             "",
	} {
		_, err := Compile(context.Background(), expression, "lo", pcap.LinkEthernet, 1000)
		if err == nil || !strings.Contains(err.Error(), words) || !strings.Contains(err.Error(), "libpcap") {
			t.Errorf("%s: %v", expression, err)
		}
	}
	if _, err := Compile(context.Background(), "ip protochain 6", "lo", pcap.LinkEthernet, 1000); err == nil || !strings.Contains(err.Error(), "loops") {
		t.Errorf("a filter with a loop: %v", err)
	}
	if _, err := CompileVM(context.Background(), "tcp", 147, 1000); err == nil { // for private use
		t.Error("a filter was compiled for a private link type")
	}
}

func TestCompileSaysHowToGetTcpdump(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	if _, err := findTcpdump(); err != nil && !strings.Contains(err.Error(), "apt install tcpdump") {
		t.Errorf("without tcpdump: %v", err)
	}
}

func TestCompileEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Compile(ctx, "tcp", "lo", pcap.LinkEthernet, 1000); err != context.Canceled {
		t.Errorf("got %v", err)
	}
}

func TestCompileVMMatches(t *testing.T) {
	frames := map[string][]byte{
		"tcp":  ethernet(etherType(typeIPv4), ip4("192.0.2.1", "192.0.2.2", 6, 0, 0, tcp(5, 80, payload(1, 100)))),
		"udp":  ethernet(etherType(typeIPv4), ip4("192.0.2.1", "192.0.2.2", 17, 0, 0, udp(5, 53, payload(1, 10)))),
		"vlan": ethernet(tag(0x8100, 5), etherType(typeIPv4), ip4("192.0.2.1", "192.0.2.2", 17, 0, 0, udp(5, 53, payload(1, 10)))),
	}
	for expression, want := range map[string]string{
		"": "tcp udp vlan", "tcp": "tcp", "udp port 53": "udp", "vlan 5": "vlan", "vlan and udp": "vlan",
		"greater 100": "tcp", "host 192.0.2.1": "tcp udp", "host 192.0.2.7": "",
	} {
		match, err := CompileVM(context.Background(), expression, pcap.LinkEthernet, 65535)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, name := range []string{"tcp", "udp", "vlan"} {
			if match(uint32(len(frames[name])), frames[name]) {
				got = append(got, name)
			}
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%q matches %v, want %s", expression, got, want)
		}
	}
	match, err := CompileVM(context.Background(), "tcp[tcpflags] & tcp-ack != 0 or vlan 7", pcap.LinkEthernet, 65535)
	if err != nil {
		t.Fatal(err)
	}
	if n := testing.AllocsPerRun(100, func() { match(0, frames["tcp"]) }); n > 0 {
		t.Errorf("%v allocations for each packet", n)
	}
}

func TestParseProgram(t *testing.T) {
	good := "4\n40 0 0 12\n21 0 1 2048\n6 0 0 262144\n6 0 0 0\n"
	for _, text := range []string{good, strings.ReplaceAll(good, "\n", ","), strings.ReplaceAll(good, "\n", "\r\n")} {
		program, err := ParseProgram(text)
		if err != nil || len(program) != 4 || program[1] != (bpf.RawInstruction{Op: 0x15, Jf: 1, K: 2048}) {
			t.Errorf("%q: %v, %v", text, program, err)
		}
	}
	for _, c := range []struct{ text, reason string }{
		{"", "empty"},
		{"x", "not a number of instructions"},
		{"0\n", "not a number of instructions"},
		{"4097\n", "not a number of instructions"},
		{"-1\n", "not a number of instructions"},
		{"2\n6 0 0 0\n", "says 2 instructions and has 1"},
		{"1\n6 0 0 0\n6 0 0 0\n", "says 1 instructions and has 2"},
		{"1\n6 0 0\n", "four numbers"},
		{"1\n6 0 0 4294967296\n", "out of range"},
		{"1\n6 256 0 0\n", "out of range"},
		{"1\n0 0 0 0\n", "not a return"},
		{"1\n8 0 0 0\n", "code 8 is unknown"},
		{"1\n65535 0 0 0\n", "code 65535 is unknown"},
		{"2\n52 0 0 0\n6 0 0 0\n", "divides by zero"},
		{"2\n100 0 0 32\n6 0 0 0\n", "shifts"},
		{"2\n2 0 0 16\n6 0 0 0\n", "scratch slot 16"},
		{"2\n96 0 0 16\n6 0 0 0\n", "scratch slot 16"},
		{"2\n21 1 0 5\n6 0 0 0\n", "jumps out"},
		{"2\n21 0 1 5\n6 0 0 0\n", "jumps out"},
		{"2\n5 0 0 1\n6 0 0 0\n", "jumps out"},
		{"2\n5 0 0 4294967295\n6 0 0 0\n", "jumps backwards"},
	} {
		if _, err := ParseProgram(c.text); err == nil || !strings.Contains(err.Error(), c.reason) {
			t.Errorf("%q: %v, want %s", c.text, err, c.reason)
		}
	}
}

func TestCookProgram(t *testing.T) {
	program, err := Compile(context.Background(), "tcp port 80 and not ifindex 3 and inbound", AnyInterface, pcap.LinkSLL2, 1000)
	if err != nil {
		t.Fatal(err)
	}
	used := map[uint32]bool{}
	for _, in := range program {
		if loadsPacket(in.Op) && in.K >= extensions {
			used[in.K] = true
		}
	}
	if !used[extProtocol] || !used[extInterface] || !used[extPktType] {
		t.Errorf("the cooked header's fields are loaded from %v", used)
	}
	if _, err := Compile(context.Background(), "link[8:2] = 1", AnyInterface, pcap.LinkSLL2, 1000); err == nil || !strings.Contains(err.Error(), "byte 8") {
		t.Errorf("a test of the hardware type: %v", err)
	}
}

func FuzzParseProgram(f *testing.F) {
	f.Add("4\n40 0 0 12\n21 0 1 2048\n6 0 0 262144\n6 0 0 0\n")
	f.Add("1,6 0 0 65535")
	f.Add("3\n48 0 0 4294963200\n2 0 0 15\n6 0 0 1\n")
	f.Fuzz(func(t *testing.T, text string) {
		program, err := ParseProgram(text)
		if err != nil {
			return
		}
		// What is accepted is written and read as the same program, and runs
		// without a panic.
		again, err := ParseProgram(writeProgram(program))
		if err != nil || fmt.Sprint(again) != fmt.Sprint(program) {
			t.Fatalf("%v is read again as %v, %v", program, again, err)
		}
		if match, err := NewMatcher(program); err == nil {
			match(64, payload(1, 64))
			match(0, nil)
		}
	})
}

func writeProgram(program []bpf.RawInstruction) string {
	var b strings.Builder
	fmt.Fprintln(&b, len(program))
	for _, in := range program {
		fmt.Fprintln(&b, in.Op, in.Jt, in.Jf, in.K)
	}
	return b.String()
}

func FuzzFilterText(f *testing.F) {
	for _, expression := range goodExpressions {
		f.Add(expression)
	}
	f.Add("host www.example.com")
	f.Add("host (((")
	f.Fuzz(func(t *testing.T, expression string) {
		if CheckExpression(expression) != nil {
			return
		}
		// A name that would be looked up is noticed behind whatever was fine.
		if CheckExpression(expression+" host www.example.com") == nil && !strings.HasSuffix(expression, `\`) {
			t.Errorf("%q hides the name of a host", expression)
		}
	})
}

package capture

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/bpf"

	"poip/internal/pcap"
)

// compileTimeout bounds a run of the helper. libpcap's optimizer takes some
// milliseconds for what people write, and hours for what they should not.
const compileTimeout = 10 * time.Second

// compiler translates a filter expression for the kernel's filter on an
// interface.
type compiler func(ctx context.Context, expression, ifname string, linkType pcap.LinkType, snaplen uint32) ([]bpf.RawInstruction, error)

// Compile translates a filter expression for the kernel's filter on an
// interface, by the real libpcap: through tcpdump, which must be installed. An
// empty expression is no program. Bad ones are refused in libpcap's own words.
//
// On Ethernet the program is for the interface as it is: the kernel keeps
// VLAN tags beside the packet, and libpcap tests them there only if it is
// asked for a real interface.
func Compile(ctx context.Context, expression, ifname string, linkType pcap.LinkType, snaplen uint32) ([]bpf.RawInstruction, error) {
	return compileKernel(ctx, expression, ifname, linkType, snaplen, compileLive)
}

// compileAnywhere compiles just to see whether it works, also without the
// permission and the interface.
func compileAnywhere(ctx context.Context, expression, ifname string, linkType pcap.LinkType, snaplen uint32) ([]bpf.RawInstruction, error) {
	return compileKernel(ctx, expression, ifname, linkType, snaplen, compileOffline)
}

func compileKernel(ctx context.Context, expression, ifname string, linkType pcap.LinkType, snaplen uint32, compile compiler) ([]bpf.RawInstruction, error) {
	if strings.TrimSpace(expression) == "" {
		return nil, nil
	}
	if err := CheckExpression(expression); err != nil {
		return nil, err
	}
	if linkType != pcap.LinkSLL2 {
		return compile(ctx, expression, ifname, linkType, snaplen)
	}
	program, err := compileOffline(ctx, expression, ifname, linkType, snaplen)
	if err != nil {
		return nil, err
	}
	return program, cookProgram(program)
}

// compileLive asks for the interface itself, then, as it may be down or absent,
// for another Ethernet interface that every machine has, and at last for none.
func compileLive(ctx context.Context, expression, ifname string, linkType pcap.LinkType, snaplen uint32) ([]bpf.RawInstruction, error) {
	attempts := [][]string{{"-i", ifname}}
	if linkType == pcap.LinkEthernet && ifname != "lo" {
		attempts = append(attempts, []string{"-i", "lo"})
	}
	var noInterface error
	for _, args := range attempts {
		program, err := tcpdumpProgram(ctx, expression, snaplen, args...)
		if err == nil || !isInterfaceError(err, args[1]) {
			return program, err
		}
		if noInterface == nil {
			noInterface = err
		}
	}
	if mentionsVLAN(expression) {
		return nil, fmt.Errorf("filter speaks of vlan, for which tcpdump has to open an interface: %w", noInterface)
	}
	return compileOffline(ctx, expression, ifname, linkType, snaplen)
}

// CompileVM translates a filter expression for packets that were captured
// already. The function that it returns tells whether a packet matches; it may
// be called by several goroutines and allocates nothing. In expressions, len,
// less and greater mean the captured length: the original one is not used.
func CompileVM(ctx context.Context, expression string, linkType pcap.LinkType, snaplen uint32) (func(original uint32, data []byte) bool, error) {
	if strings.TrimSpace(expression) == "" {
		return func(uint32, []byte) bool { return true }, nil
	}
	if err := CheckExpression(expression); err != nil {
		return nil, err
	}
	program, err := compileOffline(ctx, expression, "", linkType, snaplen)
	if err != nil {
		return nil, err
	}
	return NewMatcher(program)
}

// NewMatcher runs a program on packets that were captured already. It refuses
// one that asks what only the kernel knows. The function that it returns may be
// called by several goroutines and allocates nothing.
func NewMatcher(program []bpf.RawInstruction) (func(uint32, []byte) bool, error) {
	instructions, _ := bpf.Disassemble(program) // the VM refuses what this cannot name
	vm, err := bpf.NewVM(instructions)
	if err != nil {
		return nil, fmt.Errorf("run filter on captured packets: %w", err)
	}
	return func(_ uint32, data []byte) bool {
		n, err := vm.Run(data)
		return err == nil && n > 0
	}, nil
}

// compileOffline compiles without an interface, for packets of a link type.
func compileOffline(ctx context.Context, expression, _ string, linkType pcap.LinkType, snaplen uint32) ([]bpf.RawInstruction, error) {
	name, ok := dltNames[linkType]
	if !ok {
		return nil, fmt.Errorf("filter: libpcap has no filters for link type %v", linkType)
	}
	return tcpdumpProgram(ctx, expression, snaplen, "-y", name)
}

// mentionsVLAN reports whether a test of tags is among the words.
func mentionsVLAN(expression string) bool {
	for _, word := range filterWord.FindAllString(expression, -1) {
		if word == "vlan" {
			return true
		}
	}
	return false
}

// tcpdumpError is what tcpdump had to say.
type tcpdumpError struct{ message string }

func (e *tcpdumpError) Error() string { return "filter refused by libpcap: " + e.message }

// isInterfaceError tells complaints about the interface, which begin with its
// name, from those about the expression.
func isInterfaceError(err error, ifname string) bool {
	var refused *tcpdumpError
	return errors.As(err, &refused) && strings.HasPrefix(refused.message, ifname+": ")
}

// tcpdumpProgram runs tcpdump -ddd.
func tcpdumpProgram(ctx context.Context, expression string, snaplen uint32, args ...string) ([]bpf.RawInstruction, error) {
	path, err := findTcpdump()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, compileTimeout)
	defer cancel()
	args = append([]string{"-ddd", "-s", strconv.FormatUint(uint64(snaplen), 10)}, args...)
	// Whatever the expression begins with, it is no option.
	helper := exec.CommandContext(ctx, path, append(args, "--", expression)...) // #nosec G204 -- tcpdump, by a path of ours; no shell
	helper.Env = []string{"LC_ALL=C", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	helper.WaitDelay = time.Second
	grantCapture(helper)
	var stdout, stderr bytes.Buffer
	helper.Stdout, helper.Stderr = &stdout, &stderr
	if err := helper.Run(); err != nil {
		return nil, explainHelper(ctx, err, stderr.String())
	}
	program, err := ParseProgram(stdout.String())
	if err != nil {
		return nil, fmt.Errorf("compile filter: %w", err)
	}
	return program, nil
}

func explainHelper(ctx context.Context, err error, stderr string) error {
	var exit *exec.ExitError
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return fmt.Errorf("compile filter: tcpdump needed more than %v: make the expression simpler", compileTimeout)
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.As(err, &exit) && complaint(stderr) != "":
		return &tcpdumpError{complaint(stderr)}
	}
	return fmt.Errorf("compile filter: run tcpdump: %w", err)
}

// complaint is what tcpdump complained about, without its chat.
func complaint(stderr string) string {
	var said []string
	for line := range strings.Lines(stderr) {
		line, ours := strings.CutPrefix(strings.TrimSpace(line), "tcpdump: ")
		if ours && !strings.HasPrefix(line, "data link type ") {
			said = append(said, line)
		}
	}
	return strings.Join(said, "; ")
}

// findTcpdump also looks where ordinary users' PATH does not lead.
func findTcpdump() (string, error) {
	for _, name := range []string{"tcpdump", "/usr/sbin/tcpdump", "/sbin/tcpdump", "/usr/local/sbin/tcpdump", "/opt/homebrew/bin/tcpdump"} {
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	return "", errors.New("compile filter: tcpdump is not installed, and libpcap is asked through it: " +
		"install it (apt install tcpdump), or give filter_program the output of tcpdump -ddd from another machine")
}

// dltNames are libpcap's names for link types, as tcpdump -y takes them.
var dltNames = map[pcap.LinkType]string{
	0: "NULL", 1: "EN10MB", 6: "IEEE802", 7: "ARCNET",
	8: "SLIP", 9: "PPP", 10: "FDDI", 50: "PPP_SERIAL", 51: "PPP_ETHER", 100: "ATM_RFC1483", 101: "RAW",
	104: "C_HDLC", 105: "IEEE802_11", 107: "FRELAY", 108: "LOOP", 109: "ENC", 113: "LINUX_SLL",
	114: "LTALK", 117: "PFLOG", 119: "PRISM_HEADER", 122: "IP_OVER_FC", 123: "SUNATM",
	127: "IEEE802_11_RADIO", 129: "ARCNET_LINUX", 138: "APPLE_IP_OVER_IEEE1394", 139: "MTP2_WITH_PHDR",
	140: "MTP2", 141: "MTP3", 142: "SCCP", 143: "DOCSIS", 144: "LINUX_IRDA", 163: "IEEE802_11_RADIO_AVS",
	187: "BLUETOOTH_HCI_H4", 189: "USB_LINUX", 192: "PPI", 195: "IEEE802_15_4",
	201: "BLUETOOTH_HCI_H4_WITH_PHDR", 202: "AX25_KISS", 220: "USB_LINUX_MMAPPED", 224: "FC_2",
	226: "IPNET", 227: "CAN_SOCKETCAN", 228: "IPV4", 229: "IPV6", 230: "IEEE802_15_4_NOFCS",
	239: "NFLOG", 240: "NETANALYZER", 242: "IPOIB", 249: "USBPCAP", 253: "NETLINK", 271: "VSOCK",
	276: "LINUX_SLL2",
}

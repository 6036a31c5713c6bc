package capture

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"poip/internal/pcap"
	"poip/internal/poiptest"
)

// sendUDP sends a datagram to an address of this machine.
func sendUDP(t *testing.T, to string, data string) {
	t.Helper()
	conn, err := net.Dial("udp", to)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte(data)); err != nil {
		t.Fatal(err)
	}
}

// swallow takes datagrams, so that nobody answers that the port is unreachable.
func swallow(t *testing.T, at string) {
	t.Helper()
	conn, err := net.ListenPacket("udp", at)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
}

func TestInterfaceLoopbackHasNoDuplicates(t *testing.T) {
	everyLatency(t, func(t *testing.T, latency Latency) {
		swallow(t, "127.0.0.1:7001")
		for _, direction := range []Direction{DirectionBoth, DirectionIn, DirectionOut} {
			for _, name := range []string{"lo", AnyInterface} {
				c := startCapture(t, &Interface{Name: name, Latency: latency, Direction: direction})
				for _, data := range []string{"one", "two", "three"} {
					sendUDP(t, "127.0.0.1:7001", data)
				}
				c.await(t, 3)
				time.Sleep(3 * blockTimeout) // for what must not come
				var got []string
				for _, p := range c.stop(t) {
					got = append(got, string(p.data[len(p.data)-3:]))
				}
				if !slices.Equal(got, []string{"one", "two", "ree"}) {
					t.Errorf("%s, direction %q: got %q", name, direction, got)
				}
			}
		}
	})
}

func TestInterfaceDirection(t *testing.T) {
	everyLatency(t, func(t *testing.T, latency Latency) {
		pair := "v" + string(latency[:1])
		poiptest.Veth(t, pair+"A", pair+"B", 1500)
		out := sampleFrames()["64 bytes"]
		in := sampleFrames()["VLAN"]
		for direction, want := range map[Direction][][]byte{
			DirectionBoth: {out, in, out}, DirectionIn: {in}, DirectionOut: {out, out},
		} {
			c := startCapture(t, &Interface{Name: pair + "A", Latency: latency, Direction: direction})
			newInjector(t, pair+"A").send(out)
			newInjector(t, pair+"B").send(in)
			newInjector(t, pair+"A").send(out)
			c.await(t, len(want))
			time.Sleep(3 * blockTimeout)
			expectFrames(t, c.stop(t), want)
		}
	})
}

// anyHeader is what a cooked header says.
type anyHeader struct {
	protocol, hardware uint16
	index              uint32
	kind               byte
	address            string
}

func readAnyHeader(b []byte) (h anyHeader, rest []byte) {
	be := binary.BigEndian
	return anyHeader{be.Uint16(b), be.Uint16(b[8:]), be.Uint32(b[4:]), b[10], string(b[12 : 12+b[11]])}, b[sll2Len:]
}

func TestInterfaceAnyIsCooked(t *testing.T) {
	everyLatency(t, func(t *testing.T, latency Latency) {
		pair := "v" + string(latency[:1])
		poiptest.Veth(t, pair+"A", pair+"B", 9000)
		a, _ := net.InterfaceByName(pair + "A")
		b, _ := net.InterfaceByName(pair + "B")
		c := startCapture(t, &Interface{Name: AnyInterface, Latency: latency, Filter: "udp"})
		v4 := ip4("192.0.2.1", "192.0.2.2", 17, 0, 0, udp(7, 9, payload(1, 2000)))
		from := newInjector(t, pair+"A")
		from.send(ethernet(etherType(typeIPv4), v4))
		c.await(t, 2)
		got := c.stop(t)
		if c.info.LinkType != pcap.LinkSLL2 {
			t.Errorf("link type is %v", c.info.LinkType)
		}
		if len(got) != 2 {
			t.Fatalf("got %d packets, want one sent and one received", len(got))
		}
		source := "\x02\x00\x00\x00\x00\x01"
		for i, want := range []anyHeader{
			{typeIPv4, 1, uint32(a.Index), unix.PACKET_OUTGOING, source},
			{typeIPv4, 1, uint32(b.Index), unix.PACKET_OTHERHOST, source},
		} {
			h, rest := readAnyHeader(got[i].data)
			if h != want || !bytes.Equal(rest, v4) || got[i].original != sll2Len+len(v4) {
				t.Errorf("packet %d of %d bytes is %+v, want %+v", i, got[i].original, h, want)
			}
		}
	})
}

// The tag of a cooked packet becomes its protocol, with the number and the
// real protocol behind the header, as in packets that come with a tag inside.
func TestInterfaceAnyKeepsTags(t *testing.T) {
	everyLatency(t, func(t *testing.T, latency Latency) {
		pair := "v" + string(latency[:1])
		poiptest.Veth(t, pair+"A", pair+"B", 1500)
		c := startCapture(t, &Interface{Name: AnyInterface, Latency: latency, Direction: DirectionIn})
		v4 := ip4("192.0.2.1", "192.0.2.2", 17, 0, 0, udp(7, 9, payload(1, 20)))
		from := newInjector(t, pair+"A")
		from.send(ethernet(tag(0x8100, 0), etherType(typeIPv4), v4),
			ethernet(tag(0x88a8, 20), tag(0x8100, 30), etherType(typeIPv4), v4))
		c.await(t, 2)
		for i, want := range [][]byte{
			append(append(tag(0x8100, 0)[2:], etherType(typeIPv4)...), v4...),
			append(append(append(tag(0x88a8, 20)[2:], tag(0x8100, 30)...), etherType(typeIPv4)...), v4...),
		} {
			h, rest := readAnyHeader(c.flushed()[i].data)
			if h.protocol != []uint16{0x8100, 0x88a8}[i] || !bytes.Equal(rest, want) {
				t.Errorf("packet %d is %+v, %x, want %x", i, h, rest, want)
			}
		}
	})
}

// openTun makes a TUN interface that is up, and returns its other end; or nil,
// on machines that keep even their own TUN interfaces from ordinary users.
func openTun(t *testing.T, name string) *os.File {
	t.Helper()
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err == unix.EACCES {
		t.Log("not tried on TUN: /dev/net/tun is for root only")
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	request, err := unix.NewIfreq(name)
	if err != nil {
		t.Fatal(err)
	}
	request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, request); err != nil {
		t.Fatal(err)
	}
	tun := os.NewFile(uintptr(fd), name)
	t.Cleanup(func() { tun.Close() })
	if err := poiptest.IP("link set " + name + " up"); err != nil {
		t.Fatal(err)
	}
	return tun
}

func TestInterfaceTunIsRawIP(t *testing.T) {
	everyLatency(t, func(t *testing.T, latency Latency) {
		tun := openTun(t, "tun"+string(latency[:1]))
		if tun == nil {
			return
		}
		x := new(Exclusions)
		must(t, x.Add("udp", addrPort("192.0.2.9:9")))
		c := startCapture(t, &Interface{Name: tun.Name(), Latency: latency, Filter: "udp port 9", Exclude: x})
		v4 := ip4("192.0.2.1", "192.0.2.2", 17, 0, 0, udp(7, 9, payload(1, 100)))
		v6 := ip6("2001:db8::1", "2001:db8::2", 17, udp(7, 9, payload(2, 100)))
		other := ip4("192.0.2.1", "192.0.2.2", 17, 0, 0, udp(7, 10, payload(3, 100)))
		uplink := ip4("192.0.2.9", "192.0.2.1", 17, 0, 0, udp(9, 7, payload(4, 100)))
		for _, p := range [][]byte{v4, other, uplink, v6} {
			if _, err := tun.Write(p); err != nil {
				t.Fatal(err)
			}
		}
		c.await(t, 2)
		expectFrames(t, c.stop(t), [][]byte{v4, v6})
		if c.info.LinkType != pcap.LinkRaw {
			t.Errorf("link type is %v", c.info.LinkType)
		}
	})
}

// Whoever sends without a pause sees that nothing passes the filter before it
// is in force.
func TestInterfaceFilterHoldsFromTheFirstPacket(t *testing.T) {
	everyLatency(t, func(t *testing.T, latency Latency) {
		pair := "v" + string(latency[:1])
		poiptest.Veth(t, pair+"A", pair+"B", 1500)
		ctx, cancel := context.WithCancel(context.Background())
		var sender sync.WaitGroup
		sender.Go(func() {
			unwanted, wanted := sampleFrames()["64 bytes"], sampleFrames()["ARP"]
			from := newInjector(t, pair+"A")
			for ctx.Err() == nil {
				from.send(unwanted, unwanted, unwanted, wanted)
			}
		})
		for range 5 {
			c := startCapture(t, &Interface{Name: pair + "B", Latency: latency, Filter: "arp"})
			c.await(t, 10)
			for _, p := range c.stop(t) {
				if binary.BigEndian.Uint16(p.data[12:]) != 0x0806 {
					t.Fatalf("got %s", outline(p.data))
				}
			}
		}
		cancel()
		sender.Wait()
	})
}

func TestInterfaceFilterSeesTags(t *testing.T) {
	everyLatency(t, func(t *testing.T, latency Latency) {
		pair := "v" + string(latency[:1])
		poiptest.Veth(t, pair+"A", pair+"B", 1500)
		c := startCapture(t, &Interface{Name: pair + "B", Latency: latency, Filter: "vlan 5 and udp port 9"})
		from := newInjector(t, pair+"A")
		frames := sampleFrames()
		from.send(frames["64 bytes"], frames["VLAN"], frames["VLAN priority"], frames["VLAN"])
		c.await(t, 2)
		expectFrames(t, c.stop(t), [][]byte{frames["VLAN"], frames["VLAN"]})
	})
}

// Segmentation offload makes packets of up to 64 KiB of a TCP transfer.
func TestInterfaceDeliversOffloadedSegmentsWhole(t *testing.T) {
	everyLatency(t, func(t *testing.T, latency Latency) {
		pair := "v" + string(latency[:1])
		poiptest.Veth(t, pair+"A", pair+"B", 1500)
		far := poiptest.NewNetns(t)
		must(t, poiptest.IP("link set "+pair+"B netns "+far.Path, "addr add 10.9.0.1/24 dev "+pair+"A"))
		var listener net.Listener
		far.Do(func() {
			must(t, poiptest.IP("addr add 10.9.0.2/24 dev "+pair+"B", "link set "+pair+"B up"))
			var err error
			listener, err = net.Listen("tcp", "10.9.0.2:7002")
			must(t, err)
		})
		defer listener.Close()
		poiptest.AwaitLink(t, pair+"A")
		c := startCapture(t, &Interface{Name: pair + "A", Latency: latency, Direction: DirectionOut, Filter: "tcp"})
		sent := payload(1, 8<<20)
		received := make(chan []byte)
		go func() {
			defer close(received)
			conn, err := listener.Accept()
			if err != nil {
				return // the dialer tells why
			}
			defer conn.Close()
			data, _ := io.ReadAll(conn)
			received <- data
		}()
		conn, err := net.Dial("tcp", "10.9.0.2:7002")
		must(t, err)
		_, err = conn.Write(sent)
		must(t, err)
		conn.Close()
		if got := <-received; !bytes.Equal(got, sent) {
			t.Fatalf("transfer is broken: %d bytes", len(got))
		}
		stream, largest := tcpStream(t, c.stop(t))
		if !bytes.Equal(stream, sent) {
			t.Errorf("captured %d bytes of the stream's %d, or others; %d packets, %d lost", len(stream), len(sent), len(c.packets), c.lost)
			for _, p := range c.packets[:min(len(c.packets), 5)] {
				t.Log(outline(p.data))
			}
		}
		if largest < 60000 {
			t.Errorf("the largest packet has %d bytes: no segmentation offload?", largest)
		}
	})
}

// tcpStream puts the payloads of a connection together, in the order in which
// they came.
func tcpStream(t *testing.T, packets []packet) (stream []byte, largest int) {
	t.Helper()
	var next uint32
	for _, p := range packets {
		if len(p.data) != p.original {
			t.Fatalf("packet of %d bytes was cut to %d", p.original, len(p.data))
		}
		largest = max(largest, len(p.data))
		segment := p.data[34:]
		seq := binary.BigEndian.Uint32(segment[4:])
		if segment[13]&2 != 0 { // SYN
			next = seq + 1
		}
		data := segment[segment[12]>>4*4:]
		if len(data) > 0 && seq == next { // else a retransmission
			stream = append(stream, data...)
			next += uint32(len(data))
		}
	}
	return stream, largest
}

// Packets that are not in one piece in memory are captured like others, and
// pass the exclusion's code.
func TestInterfaceDeliversPacketsInPieces(t *testing.T) {
	everyLatency(t, func(t *testing.T, latency Latency) {
		pair := "v" + string(latency[:1])
		poiptest.Veth(t, pair+"A", pair+"B", 9000)
		x := new(Exclusions)
		must(t, x.Add("", addrPort("192.0.2.9:9"), addrPort("[2001:db8::9]:9")))
		c := startCapture(t, &Interface{Name: pair + "A", Latency: latency, Exclude: x})
		from := newInjector(t, pair+"A")
		must(t, unix.SetsockoptInt(from.fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1))
		whole := sampleFrames()["jumbo"]
		excluded := ethernet(etherType(typeIPv4), ip4("192.0.2.1", "192.0.2.9", 17, 0, 0, udp(7, 9, payload(4, 8000))))
		for _, f := range [][]byte{whole, excluded, whole} {
			// A header of zeroes asks for 14 bytes in one piece; the kernel puts
			// the rest into pages.
			from.send(append(make([]byte, 10), f...))
		}
		c.await(t, 2)
		expectFrames(t, c.stop(t), [][]byte{whole, whole})
	})
}

// What was sent is what was read and what was dropped, exactly and in order.
func TestInterfaceCountsEveryDrop(t *testing.T) {
	everyLatency(t, func(t *testing.T, latency Latency) {
		pair := "v" + string(latency[:1])
		poiptest.Veth(t, pair+"A", pair+"B", 1500)
		i := &Interface{Name: pair + "B", Latency: latency, Snaplen: 64, Buffer: 32 << 10}
		c := startCapture(t, i)
		c.mu.Lock() // the reader stands still
		g, err := poiptest.NewGenerator(pair+"A", 64)
		must(t, err)
		defer g.Close()
		_, err = g.Send(20000, 0)
		must(t, err)
		c.mu.Unlock()
		poiptest.WaitUntil(t, "every packet to be read or lost", func() bool {
			c.mu.Lock()
			defer c.mu.Unlock()
			return len(c.packets)+int(c.lost) >= 20000
		})
		_, err = g.Send(1000, 10000)
		must(t, err)
		got := c.stop(t)
		if c.lost == 0 || len(got)+int(c.lost) != 21000 {
			t.Errorf("sent 21000, read %d, lost %d", len(got), c.lost)
		}
		for k, p := range got {
			// Packets are lost between those that they came between.
			if counter, _, ok := poiptest.Stamps(p.data); !ok || counter != uint64(k)+p.lost {
				t.Fatalf("packet %d, after %d lost ones, has number %d", k, p.lost, counter)
			}
		}
	})
}

func TestInterfaceEndsPromptly(t *testing.T) {
	everyLatency(t, func(t *testing.T, latency Latency) {
		defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
		before := len(ourSockets(t))
		defer func() {
			if after := len(ourSockets(t)); after != before {
				t.Errorf("%d descriptors became %d", before, after)
			}
		}()
		c := startCapture(t, &Interface{Name: "lo", Latency: latency})
		asked := time.Now()
		c.stop(t)
		if took := time.Since(asked); took > 500*time.Millisecond {
			t.Errorf("a quiet capture took %v to end", took)
		}
	})
}

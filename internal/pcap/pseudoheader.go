package pcap

import (
	"encoding/binary"
	"slices"
)

// Link types whose packets begin with numbers in the byte order of the machine
// that captured them.
const (
	linkUSB       LinkType = 189 // USB_LINUX
	linkUSBMapped LinkType = 220 // USB_LINUX_MMAPPED
	linkNFLOG     LinkType = 239
)

// swapPseudoHeader turns what a big-endian machine wrote into what a
// little-endian one would have written, since the record form is little-endian
// and readers take its byte order for that of the packets.
func swapPseudoHeader(link LinkType, data []byte) {
	switch link {
	case LinkSLL:
		swapCAN(data, 14, 16)
	case LinkSLL2:
		swapCAN(data, 0, 20)
	case linkUSB, linkUSBMapped:
		swapUSB(data, link == linkUSBMapped)
	case linkNFLOG:
		swapNFLOG(data)
	}
}

// swap reverses the n bytes at offset at. It tells whether they are there.
func swap(data []byte, at, n int) bool {
	if len(data) < at+n {
		return false
	}
	slices.Reverse(data[at : at+n])
	return true
}

// swapCAN swaps the identifier of a SocketCAN frame behind a cooked header.
func swapCAN(data []byte, protocolAt, headerLen int) {
	const can, canFD = 0x000c, 0x000d // ETH_P_CAN, ETH_P_CANFD
	if len(data) < headerLen {
		return
	}
	if p := binary.BigEndian.Uint16(data[protocolAt:]); p == can || p == canFD {
		swap(data, headerLen, 4)
	}
}

// swapUSB swaps the usbmon header (Documentation/usb/usbmon.rst), up to the
// first field that is not there.
func swapUSB(data []byte, mapped bool) {
	const isochronous = 0
	fields := []struct{ at, n int }{{0, 8}, {12, 2}, {16, 8}, {24, 4}, {28, 4}, {32, 4}, {36, 4}}
	for _, f := range fields {
		if !swap(data, f.at, f.n) {
			return
		}
	}
	iso := data[9] == isochronous
	if iso && (!swap(data, 40, 4) || !swap(data, 44, 4)) {
		return
	}
	if !mapped {
		return
	}
	for at := 48; at < 64; at += 4 {
		if !swap(data, at, 4) {
			return
		}
	}
	if iso {
		swapDescriptors(data[64:], binary.LittleEndian.Uint32(data[60:]))
	}
}

// swapDescriptors swaps the first three of the four words of each isochronous
// descriptor.
func swapDescriptors(data []byte, count uint32) {
	for ; count > 0 && len(data) >= 4; count-- {
		if !swap(data, 0, 4) || !swap(data, 4, 4) || !swap(data, 8, 4) || len(data) < 16 {
			return
		}
		data = data[16:]
	}
}

// swapNFLOG swaps types and lengths of the attributes; their values are in
// network order. See https://www.tcpdump.org/linktypes/LINKTYPE_NFLOG.html.
func swapNFLOG(data []byte) {
	const headerLen, version = 4, 0
	if len(data) < headerLen || data[1] != version {
		return
	}
	data = data[headerLen:]
	for len(data) >= 4 { // length, type, value, padding to 4
		swap(data, 0, 2)
		swap(data, 2, 2)
		length := (int(binary.LittleEndian.Uint16(data)) + 3) &^ 3
		if length < 4 || length > len(data) {
			return
		}
		data = data[length:]
	}
}

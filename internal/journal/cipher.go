package journal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"fmt"

	"poip/internal/pcap"
)

// The file of the packets of an encrypted segment begins with as many bytes as
// a pcap file, so that offsets are the same. FORMAT.md has the layout.
const encryptedMagic = "poip-enc"

// encryptedMore is how much longer a batch is when it is encrypted, in bytes: a
// nonce, the batch's CRC, which would else confirm what somebody guesses, and a
// tag. It is as much as the header of a batch has on the wire, so that no batch
// becomes longer than wire.MaxBatchLen.
const encryptedMore = 12 + crcLen + 16

const crcLen = 4

// An encryption is what a segment says about how it is encrypted.
type encryption struct {
	salt [6]byte // so that no two segments have one key, whatever they are called
	key  keyID
}

// encrypt has the packets of a segment that is about to be made encrypted.
func (h *header) encrypt(k *Key) {
	if k == nil {
		return
	}
	h.flags |= flagEncrypted
	h.encryption.key = k.id
	rand.Read(h.encryption.salt[:])
}

func (h *header) encrypted() bool { return h.flags&flagEncrypted != 0 }

// fileHeader is what the file of the packets begins with.
func (h *header) fileHeader() []byte {
	if !h.encrypted() {
		return pcap.AppendFileHeader(nil, h.epoch.LinkType, h.epoch.Snaplen, true)
	}
	b := append(make([]byte, 0, pcap.FileHeaderLen), encryptedMagic...)
	b = binary.LittleEndian.AppendUint16(b, uint16(h.epoch.LinkType))
	b = append(b, h.encryption.salt[:]...)
	return append(b, h.encryption.key[:]...)
}

// parseEncrypted takes over what the beginning of an encrypted file says.
func (h *header) parseEncrypted(b []byte) (ok bool) {
	if string(b[:len(encryptedMagic)]) != encryptedMagic {
		return false
	}
	h.epoch.LinkType = pcap.LinkType(binary.LittleEndian.Uint16(b[8:]))
	copy(h.encryption.salt[:], b[10:])
	copy(h.encryption.key[:], b[16:])
	return true
}

// A batchCipher encrypts and decrypts the batches of one segment; nil leaves
// them as they are. It is for one goroutine.
type batchCipher struct {
	aead  cipher.AEAD
	place [16]byte // scratch
	plain []byte   // scratch
}

// cipher returns what the packets of a segment are encrypted with: nil if they
// are not.
func (k *Key) cipher(h *header) (*batchCipher, error) {
	if !h.encrypted() {
		return nil, nil
	}
	if err := k.fits(h.encryption.key); err != nil {
		return nil, err
	}
	purpose := append([]byte("poip journal segment"), binary.LittleEndian.AppendUint64(nil, h.seq)...)
	purpose = append(purpose, h.epoch.ID[:]...)
	key, err := k.derive(h.fileHeader(), string(purpose), KeyLen)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	return &batchCipher{aead: aead}, err
}

// bind is what a batch is bound to beside the segment, whose key is its own.
// The offset is left out: batches are copied as they are to another generation.
func (c *batchCipher) bind(e *entry) []byte {
	binary.LittleEndian.PutUint64(c.place[:], uint64(e.first))
	binary.LittleEndian.PutUint64(c.place[8:], e.count)
	return c.place[:]
}

// stored is how the entry of a batch looks in the index, but for its offset.
func (c *batchCipher) stored(e entry) entry {
	if c != nil && e.kind == Batch {
		e.crc, e.length = 0, e.length+encryptedMore
	}
	return e
}

// seal appends the encrypted form of a batch whose records are in pieces.
func (c *batchCipher) seal(dst []byte, e *entry, pieces [][]byte) []byte {
	c.plain = binary.LittleEndian.AppendUint32(c.plain[:0], e.crc)
	for _, piece := range pieces {
		c.plain = append(c.plain, piece...)
	}
	return c.aead.Seal(dst, nil, c.plain, c.bind(e))
}

// open checks a batch as it was stored, which is decrypted in place. It returns
// the entry as it was before, and its records.
func (c *batchCipher) open(e *entry, b []byte) (entry, []byte, error) {
	if c == nil {
		return *e, b, e.verify(b)
	}
	plain, err := c.aead.Open(b[:0], nil, b, c.bind(e))
	if err == nil && len(plain) < crcLen {
		err = fmt.Errorf("%d bytes are too short", len(b))
	}
	if err != nil {
		return *e, nil, fmt.Errorf("decrypt: %w", err)
	}
	was, records := *e, plain[crcLen:]
	was.crc, was.length = binary.LittleEndian.Uint32(plain), uint32(len(records))
	return was, records, was.verify(records)
}

// rest gives memory back.
func (c *batchCipher) rest() {
	if c != nil {
		c.plain = nil
	}
}

//go:build linux

package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"time"

	"github.com/quic-go/quic-go"
)

// quicProtocol is the ALPN of our ends.
const quicProtocol = "bench"

// connectEnd makes an end's connections. It calls up when it accepts.
func connectEnd(ctx context.Context, o endOptions, up func()) ([]io.ReadWriteCloser, error) {
	switch {
	case o.quic && o.listen != "":
		return acceptQUIC(ctx, o, up)
	case o.quic:
		return dialQUIC(ctx, o)
	case o.listen != "":
		return acceptTCP(o, up)
	}
	return dialTCP(o)
}

func dialTCP(o endOptions) (streams []io.ReadWriteCloser, err error) {
	for range o.n {
		c, err := dialPatiently(o.dial)
		if err != nil {
			return nil, err
		}
		if o.tls {
			secured := tls.Client(c, dialTLS())
			if err := secured.Handshake(); err != nil {
				return nil, err
			}
			c = secured
		}
		streams = append(streams, c)
	}
	return streams, nil
}

// dialPatiently gives the other side, which may just be starting, 5 s.
func dialPatiently(address string) (c net.Conn, err error) {
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if c, err = net.Dial("tcp", address); !errors.Is(err, syscall.ECONNREFUSED) {
			break
		}
	}
	return c, err
}

func acceptTCP(o endOptions, up func()) (streams []io.ReadWriteCloser, err error) {
	ln, err := net.Listen("tcp", o.listen)
	if err != nil {
		return nil, err
	}
	defer ln.Close()
	up()
	for range o.n {
		c, err := ln.Accept()
		if err != nil {
			return nil, err
		}
		if o.sendBuffer > 0 {
			c.(*net.TCPConn).SetWriteBuffer(o.sendBuffer)
		}
		if o.tls {
			if c, err = acceptTLS(c, o); err != nil {
				return nil, err
			}
		}
		streams = append(streams, c)
	}
	return streams, nil
}

func acceptTLS(c net.Conn, o endOptions) (net.Conn, error) {
	config, err := listenTLS(o)
	if err != nil {
		return nil, err
	}
	secured := tls.Server(c, config)
	return secured, secured.Handshake()
}

// dialTLS trusts anybody: the certificates are made for this run, and what is
// measured is the bulk.
func dialTLS() *tls.Config {
	return &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13, NextProtos: []string{quicProtocol}}
}

func listenTLS(o endOptions) (*tls.Config, error) {
	pair, err := tls.LoadX509KeyPair(o.cert, o.key)
	if err != nil {
		return nil, fmt.Errorf("load the certificate: %w", err)
	}
	return &tls.Config{Certificates: []tls.Certificate{pair}, NextProtos: []string{quicProtocol}}, nil
}

func dialQUIC(ctx context.Context, o endOptions) ([]io.ReadWriteCloser, error) {
	conn, err := quic.DialAddr(ctx, o.dial, dialTLS(), &quic.Config{})
	if err != nil {
		return nil, err
	}
	stream, err := conn.OpenStreamSync(ctx)
	if err != nil {
		return nil, err
	}
	// The other end learns of a stream by its first byte.
	_, err = stream.Write([]byte{0})
	return []io.ReadWriteCloser{quicStream{stream, conn}}, err
}

func acceptQUIC(ctx context.Context, o endOptions, up func()) ([]io.ReadWriteCloser, error) {
	config, err := listenTLS(o)
	if err != nil {
		return nil, err
	}
	ln, err := quic.ListenAddr(o.listen, config, &quic.Config{})
	if err != nil {
		return nil, err
	}
	up()
	conn, err := ln.Accept(ctx)
	if err != nil {
		return nil, err
	}
	stream, err := conn.AcceptStream(ctx)
	if err != nil {
		return nil, err
	}
	_, err = io.ReadFull(stream, make([]byte, 1))
	return []io.ReadWriteCloser{quicStream{stream, conn}}, err
}

// quicStream is the one stream of its connection.
type quicStream struct {
	*quic.Stream
	conn *quic.Conn
}

// Close ends the stream, and waits until the peer has read it all and hung up.
func (s quicStream) Close() error {
	err := s.Stream.Close()
	<-s.conn.Context().Done()
	return err
}

// hangUp tells the sender that everything was read.
func (s quicStream) hangUp() { s.conn.CloseWithError(0, "") }

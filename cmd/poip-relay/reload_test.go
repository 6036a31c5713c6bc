package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"poip/broker"
	"poip/certs"
	"poip/internal/poiptest"
)

// initialized makes a relay's folder, and in it a configuration with one listener.
func initialized(t *testing.T, listener string) (data, config string) {
	t.Helper()
	data = filepath.Join(t.TempDir(), "relay")
	if err := certs.Init(data, "relay.test", nil); err != nil {
		t.Fatal(err)
	}
	config = filepath.Join(data, "relay.toml")
	configure(t, config, data, listener)
	return data, config
}

func configure(t *testing.T, config, data, listener string) {
	t.Helper()
	text := fmt.Sprintf("[relay]\nname = \"relay.test\"\ndata = %q\n[relay.intake]\ntcp = \"127.0.0.1:0\"\nquic = \"\"\n[relay.admin]\nlisten = \"\"\n"+
		"[[relay.listener]]\nname = %q\nlisten = \"127.0.0.1:0\"\nstreams = [\"*/*\"]\nallow = [\"127.0.0.0/8\"]\n", data, listener)
	write(t, config, []byte(text))
}

// TestReloadIsAllOrNothing: certificates that are of no use keep the listeners
// from changing, and good ones are in force for those who connect from then on.
func TestReloadIsAllOrNothing(t *testing.T) {
	data, config := initialized(t, "before")
	var text bytes.Buffer
	log := slog.New(slog.NewTextHandler(&text, nil))
	cfg, err := loadConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	keeper, err := newKeeper(cfg, log)
	if err != nil {
		t.Fatal(err)
	}
	loaded := keeper.inForce.Load()
	given := broker.Options{Log: log}
	keeper.decide(&given)
	b, err := broker.New(cfg, given)
	if err != nil {
		t.Fatal(err)
	}
	keeper.broker = b
	defer func() { // run and end, which closes the sockets
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := b.Run(ctx); err != nil {
			t.Error(err)
		}
	}()
	configure(t, config, data, "after")

	for what, spoil := range map[string]func(dir string){
		"a key that is none":    func(dir string) { write(t, filepath.Join(dir, certs.RelayKey), []byte("nonsense")) },
		"no authorities":        func(dir string) { write(t, filepath.Join(dir, certs.CAFile), []byte("nonsense")) },
		"a certificate expired": func(dir string) { expire(t, dir) },
	} {
		bad, _ := initialized(t, "")
		spoil(bad)
		install(t, bad, data)
		text.Reset()
		reload(config, b, keeper, log)
		if !strings.Contains(text.String(), "reload failed") || b.Listeners()[0].Name != "before" || keeper.inForce.Load() != loaded {
			t.Errorf("%s: listener is %q, the log says %s", what, b.Listeners()[0].Name, &text)
		}
	}

	other, _ := initialized(t, "")
	install(t, other, data)
	text.Reset()
	reload(config, b, keeper, log)
	if b.Listeners()[0].Name != "after" {
		t.Fatalf("reload failed: %s", &text)
	}
	analyst, err := given.AnalystTLS("cert")
	if err != nil {
		t.Fatal(err)
	}
	want, err := certs.LoadTrust(other)
	if err != nil {
		t.Fatal(err)
	}
	for what, server := range map[string]*tls.Config{"intake": given.IntakeTLS, "listener": analyst} {
		now, err := server.GetConfigForClient(new(tls.ClientHelloInfo))
		if err != nil {
			t.Fatal(err)
		}
		if !now.ClientCAs.Equal(want.Pool()) {
			t.Errorf("%s: the former authorities are in force", what)
		}
	}
}

// install puts the certificates of one relay in the place of another's.
func install(t *testing.T, from, to string) {
	t.Helper()
	for _, file := range []string{certs.CAFile, certs.RelayCert, certs.RelayKey} {
		text, err := os.ReadFile(filepath.Join(from, file))
		if err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(to, file), text)
	}
}

// expire replaces a relay's certificate by one that fits its new key and is
// of no use any more.
func expire(t *testing.T, dir string) {
	t.Helper()
	key := poiptest.NewKey(t)
	pair := poiptest.NewCA(t).Forge(key, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) })
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, certs.RelayCert), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: pair.Certificate[0]}))
	write(t, filepath.Join(dir, certs.RelayKey), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

func write(t *testing.T, path string, text []byte) {
	t.Helper()
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
}

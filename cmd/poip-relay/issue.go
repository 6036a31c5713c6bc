package main

import (
	"bufio"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"poip/auth"
	"poip/broker"
	"poip/certs"
	"poip/internal/audit"
)

func newIssue() *cobra.Command {
	var data, out, analyst string
	var password passwordFlags
	cmd := &cobra.Command{
		Use:   "issue {SENSOR | --analyst NAME} --data DIR --out DIR2",
		Short: "Make an identity for an analyst, or one to copy to a sensor",
		Long: `issue makes a key and a certificate and puts them, with the CA's certificate,
into DIR2, to be copied over a channel that you trust.

An analyst's are for listeners with client_auth = "cert": analyst-bundle.pem for
ncat, socat, openssl and stunnel, and analyst.p12 (PKCS #12) for others. The
password of the latter is read from a file or a prompt; otherwise one is made,
and shown once, on standard error.

A sensor's certificate lasts a week, within which its agent has to run; then it
is renewed. Where the sensor reaches the relay anyway, "token" and "poip-agent
enroll" are better: there the key never travels.

A name is made of a-z, 0-9, dot, underscore and hyphen, begins with a letter or
digit, and is at most 63 characters long.`,
		Example: `  poip-relay issue --analyst alice --data /var/lib/poip-relay --out ./alice
  poip-relay issue branch-7 --data /var/lib/poip-relay --out ./branch-7`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case analyst != "" && len(args) == 0:
				return issueAnalyst(cmd, data, analyst, out, password)
			case analyst == "" && len(args) == 1:
				return issueSensor(cmd, data, args[0], out)
			}
			return errors.New("say for whom: a SENSOR, or --analyst NAME")
		},
	}
	dataFlag(cmd, &data)
	cmd.Flags().StringVar(&out, "out", "", "`DIR`ectory to make")
	cmd.Flags().StringVar(&analyst, "analyst", "", "`NAME` of an analyst")
	password.add(cmd)
	cmd.MarkFlagRequired("out")
	return cmd
}

func issueSensor(cmd *cobra.Command, data, name, out string) error {
	sensor, err := auth.ParseSensorName(name)
	if err != nil {
		return err
	}
	if err := certs.IssueSensorFor(data, sensor, out, time.Duration(livesBelow(data).Sensor)); err != nil {
		return err
	}
	recordIssue(cmd.ErrOrStderr(), data, audit.Entry{Sensor: string(sensor)}, filepath.Join(out, certs.SensorCert))
	fmt.Fprintf(cmd.OutOrStdout(), `made an identity for %[1]s in %[2]s

next: copy %[2]s to the sensor, keep its modes, and there
  poip-agent run --relay tls://RELAY:57011 --data DIR --interface IF
`, sensor, out)
	return nil
}

func issueAnalyst(cmd *cobra.Command, data, name, out string, password passwordFlags) error {
	analyst, err := auth.ParseAnalystName(name)
	if err != nil {
		return err
	}
	secret, made, err := password.read(cmd.InOrStdin(), cmd.ErrOrStderr())
	if err != nil {
		return err
	}
	if err := certs.IssueAnalyst(data, analyst, out, secret, time.Duration(livesBelow(data).Analyst)); err != nil {
		return err
	}
	recordIssue(cmd.ErrOrStderr(), data, audit.Entry{Analyst: string(analyst)}, filepath.Join(out, certs.AnalystCert))
	if made {
		fmt.Fprintf(cmd.ErrOrStderr(), "password of %s, shown this once: %s\n", filepath.Join(out, certs.AnalystP12), secret)
	}
	fmt.Fprintf(cmd.OutOrStdout(), `made an identity for the analyst %[1]s in %[2]s

next: name %[1]s in a [[relay.analyst]] of the configuration, copy %[2]s to the
analyst, keep its modes, and there, for a listener with client_auth = "cert"
  ncat --ssl --ssl-cert %[3]s --ssl-key %[3]s --recv-only RELAY PORT | tshark -r -
  socat -u OPENSSL:RELAY:PORT,cert=%[3]s,cafile=%[4]s - | tshark -r -
`, analyst, out, certs.AnalystBundle, certs.CAFile)
	return nil
}

// livesBelow is as the relay's configuration says, where there is one.
func livesBelow(data string) broker.CertsConfig {
	cfg := broker.DefaultConfig()
	if loaded, err := loadConfig(filepath.Join(data, "relay.toml")); err == nil {
		cfg = loaded
	}
	return cfg.Certs
}

// recordIssue notes a certificate that was made.
func recordIssue(stderr io.Writer, data string, e audit.Entry, certFile string) {
	e.Event = audit.Issued
	if text, err := os.ReadFile(certFile); err == nil {
		if block, _ := pem.Decode(text); block != nil {
			if cert, err := x509.ParseCertificate(block.Bytes); err == nil {
				e = certified(e, cert)
			}
		}
	}
	record(stderr, data, e)
}

// passwordFlags say where the password of a PKCS #12 file comes from. None of
// them is the password.
type passwordFlags struct {
	file string
	ask  bool
}

func (p *passwordFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&p.file, "password-file", "", "`FILE` with the password of analyst.p12 in its first line")
	cmd.Flags().BoolVar(&p.ask, "password-prompt", false, "ask for the password of analyst.p12")
	cmd.MarkFlagsMutuallyExclusive("password-file", "password-prompt")
}

// read returns the password, and whether it was made up here.
func (p *passwordFlags) read(stdin io.Reader, stderr io.Writer) (password string, made bool, err error) {
	switch {
	case p.ask:
		password, err = askPassword(stdin, stderr)
	case p.file != "":
		f, e := os.Open(p.file)
		if e != nil {
			return "", false, fmt.Errorf("read password: %w", e)
		}
		defer f.Close()
		password, err = firstLine(f)
	default:
		return rand.Text(), true, nil
	}
	if err == nil && password == "" {
		err = errors.New("the password is empty")
	}
	return password, false, err
}

func firstLine(r io.Reader) (string, error) {
	lines := bufio.NewScanner(io.LimitReader(r, 4096))
	lines.Scan()
	return lines.Text(), lines.Err()
}

# SPDX-License-Identifier: Apache-2.0
"""Certificates for tests, made with the openssl command: an authority, and servers that it signed."""
import subprocess


def _openssl(*args):
    subprocess.run(["openssl", *map(str, args)], check=True, capture_output=True)


class Authority:
    """ca.pem in the folder; server(name) writes name.pem (chain) and name.key."""

    def __init__(self, folder, name="ca"):
        self.folder = folder
        self.pem, self.key = folder / f"{name}.pem", folder / f"{name}.key"
        _openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                 "-days", 2, "-subj", f"/CN=medley test {name}", "-keyout", self.key, "-out", self.pem)

    def server(self, name, names="DNS:localhost,IP:127.0.0.1"):
        """(certificate, key) of a server that answers to these names; its subject is `name`."""
        pem, key = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        request, extra = self.folder / f"{name}.csr", self.folder / f"{name}.ext"
        extra.write_text(f"subjectAltName={names}\nbasicConstraints=CA:FALSE\n")
        _openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj",
                 f"/CN={name}", "-keyout", key, "-out", request)
        _openssl("x509", "-req", "-in", request, "-CA", self.pem, "-CAkey", self.key,
                 "-CAcreateserial", "-days", 2, "-extfile", extra, "-out", pem)
        return pem, key

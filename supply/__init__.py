"""What is installed and from where: images and their least versions, licences. For `make audit` and `make sbom`."""

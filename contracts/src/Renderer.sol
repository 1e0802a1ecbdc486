// SPDX-License-Identifier: MIT OR Apache-2.0
// Writes the token pages of licences, datasets and contributions; kept apart so that the registries stay small.
pragma solidity ^0.8.28;

import {Base64} from "@openzeppelin/contracts/utils/Base64.sol";
import {Strings} from "@openzeppelin/contracts/utils/Strings.sol";
import {Version} from "../interfaces/IIPRegistry.sol";
import {LicenseView, Terms} from "../interfaces/ILicenseRegistry.sol";
import {IRenderer} from "../interfaces/IRenderer.sol";
import {Metadata} from "./Metadata.sol";

contract Renderer is IRenderer {
    using Strings for *;

    /// @inheritdoc IRenderer
    function licenseURI(uint256 licenseId, string calldata dataset, LicenseView calldata license)
        external
        pure
        returns (string memory)
    {
        Terms calldata terms = license.terms;
        string memory holder = license.holder.toChecksumHexString();
        string memory purposes = Metadata.purposesInWords(terms.purposes);
        string memory training = terms.aiTraining ? "allowed" : "not allowed";

        string[] memory lines = new string[](12);
        lines[0] = string.concat("Status: ", license.status);
        if (bytes(license.revocationCause).length > 0) {
            lines[0] = string.concat(lines[0], " (", license.revocationCause, ")");
        }
        lines[1] = string.concat("Dataset: ", dataset, ", version ", license.version.toString());
        lines[2] = string.concat("Holder: ", holder);
        lines[3] = string.concat("AI training: ", training);
        lines[4] = string.concat("Purposes: ", purposes);
        lines[5] = string.concat("Seats: ", terms.seats.toString());
        lines[6] = string.concat(
            "Valid from ", license.startsAt.toString(), " until ", license.endsAt.toString(), " (Unix seconds)"
        );
        lines[7] = string.concat(
            "Paid: ", license.paid.toString(), " token units, of which contributors ", _percent(terms.contributorBps)
        );
        lines[8] = terms.transferable
            ? string.concat("Transferable; the provider asks ", _percent(terms.resaleBps), " of a resale")
            : "Not transferable";
        lines[9] = string.concat("Legal text: ", terms.legalUri);
        lines[10] = string.concat("Its SHA-256: ", uint256(terms.legalHash).toHexString(32));
        lines[11] = string.concat("Of Tidemark IP ", license.ipId.toHexString(32));

        string[] memory traits = new string[](15);
        traits[0] = Metadata.trait("Status", license.status);
        traits[1] = Metadata.trait("Holder", holder);
        traits[2] = Metadata.trait("Dataset", dataset);
        traits[3] = Metadata.trait("Version", license.version);
        traits[4] = Metadata.trait("AI training", training);
        traits[5] = Metadata.trait("Purposes", purposes);
        traits[6] = Metadata.trait("Seats", terms.seats);
        traits[7] = Metadata.trait("Starts at", license.startsAt);
        traits[8] = Metadata.trait("Ends at", license.endsAt);
        traits[9] = Metadata.trait("Paid", uint256(license.paid).toString());
        traits[10] = Metadata.trait("Contributors' part", _percent(terms.contributorBps));
        traits[11] = Metadata.trait("Transferable", terms.transferable ? "yes" : "no");
        traits[12] = Metadata.trait("Resale royalty", _percent(terms.resaleBps));
        traits[13] = Metadata.trait("Legal text SHA-256", uint256(terms.legalHash).toHexString(32));
        traits[14] = Metadata.trait("IP", license.ipId.toHexString(32));
        return Metadata.uri(string.concat("Data licence ", licenseId.toString()), lines, traits);
    }

    /// @inheritdoc IRenderer
    function datasetURI(uint256 ipId, string calldata name, address provider, uint32 number, Version calldata version)
        external
        pure
        returns (string memory)
    {
        string memory account = provider.toChecksumHexString();
        string memory root = uint256(version.root).toHexString(32);
        string memory purposes = Metadata.purposesInWords(version.purposes);

        string[] memory lines = new string[](6);
        lines[0] = string.concat("Dataset of provider ", account);
        lines[1] = string.concat(
            "Version ", number.toString(), ", ", version.memberCount.toString(), " records, registered at "
        );
        lines[1] = string.concat(lines[1], version.registeredAt.toString(), " (Unix seconds)");
        lines[2] = string.concat("Consented purposes: ", purposes);
        lines[3] = string.concat("Root ", root);
        lines[4] = version.withdrawn ? "Not for sale: a consent was withdrawn" : "No withdrawn consent reported";
        lines[5] = string.concat("Tidemark IP ", ipId.toHexString(32));

        string[] memory traits = new string[](7);
        traits[0] = Metadata.trait("Kind", "dataset");
        traits[1] = Metadata.trait("Provider", account);
        traits[2] = Metadata.trait("Version", number);
        traits[3] = Metadata.trait("Records", version.memberCount);
        traits[4] = Metadata.trait("Consented purposes", purposes);
        traits[5] = Metadata.trait("Root", root);
        traits[6] = Metadata.trait("Consent withdrawn", version.withdrawn ? "yes" : "no");
        return Metadata.uri(name, lines, traits);
    }

    /// @inheritdoc IRenderer
    function contributionURI(uint256 ipId, address provider, uint64 number, bytes16 dataId)
        external
        pure
        returns (string memory)
    {
        string memory account = provider.toChecksumHexString();
        string memory id = Metadata.uuid(dataId);

        string[] memory lines = new string[](3);
        lines[0] = string.concat("Accepted by provider ", account);
        lines[1] = string.concat("Anchored in batch ", number.toString());
        lines[2] = string.concat("Tidemark IP ", ipId.toHexString(32));

        string[] memory traits = new string[](4);
        traits[0] = Metadata.trait("Kind", "contribution");
        traits[1] = Metadata.trait("Provider", account);
        traits[2] = Metadata.trait("Batch", number);
        traits[3] = Metadata.trait("Data ID", id);
        return Metadata.uri(string.concat("Contribution ", id), lines, traits);
    }

    /// @inheritdoc IRenderer
    function collectionURI(string calldata name, string calldata symbol, string calldata description)
        external
        pure
        returns (string memory)
    {
        bytes memory json = abi.encodePacked(
            '{"name":"',
            Strings.escapeJSON(name),
            '","symbol":"',
            Strings.escapeJSON(symbol),
            '","description":"',
            Strings.escapeJSON(description),
            '"}'
        );
        return string.concat("data:application/json;base64,", Base64.encode(json));
    }

    /// @dev Basis points as "12.34 %".
    function _percent(uint16 bps) private pure returns (string memory) {
        uint256 hundredths = bps % 100;
        return string.concat((bps / 100).toString(), hundredths < 10 ? ".0" : ".", hundredths.toString(), " %");
    }
}

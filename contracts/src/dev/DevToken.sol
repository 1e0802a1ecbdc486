// SPDX-License-Identifier: MIT OR Apache-2.0
// A worthless token that anyone may mint, only for development: never name it in a real deployment.
pragma solidity ^0.8.28;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";
import {ERC20Permit} from "@openzeppelin/contracts/token/ERC20/extensions/ERC20Permit.sol";
import {ERC3009} from "@openzeppelin/contracts/token/ERC20/extensions/draft-ERC3009.sol";

contract DevToken is ERC20Permit, ERC3009 {
    constructor() ERC20("Tidemark Dev Won", "dKRW") ERC20Permit("Tidemark Dev Won") {}

    /// @notice Gives anyone any amount.
    function mint(address to, uint256 amount) external {
        _mint(to, amount);
    }

    /// @inheritdoc ERC20
    function decimals() public pure override returns (uint8) {
        return 6;
    }
}
